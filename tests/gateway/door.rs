//! The door of the API: which addresses it takes, TLS and certificates, names and origins, and what one visitor can
//! keep from the others. TLS is judged by an implementation of its own, that of Python; certificates by OpenSSL.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::world::home::finish;
use crate::world::http::{Answer, Request};
use crate::world::{Build, Daemon, Home, PATIENCE, Runtime, Serve, User, eventually};

/// Connects to a port with one version of TLS, prints what was agreed, sends a request and prints the answer.
const CLIENT: &str = r#"
import hashlib, socket, ssl, sys
port, version, roots = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=roots or None)
if not roots:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
context.set_ciphers('DEFAULT:@SECLEVEL=0')
context.set_alpn_protocols(['h2', 'http/1.1'])
with socket.create_connection(('127.0.0.1', port), timeout=60) as plain:
    with context.wrap_socket(plain, server_hostname='localhost') as tls:
        der = tls.getpeercert(binary_form=True)
        print(tls.version(), tls.selected_alpn_protocol(), hashlib.sha256(der).hexdigest())
        tls.sendall(sys.stdin.buffer.read())
        while piece := tls.recv(65536):
            sys.stdout.write(piece.decode())
"#;

/// What Python's TLS gets for a request, after the line of what was agreed.
fn python(daemon: &Daemon, version: &str, roots: &str, request: &str) -> Output {
    let port = daemon.address.port().to_string();
    let mut child = Command::new("python3")
        .args(["-c", CLIENT, &port, version, roots])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    finish(child)
}

fn head(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// The fingerprint in the log of a control plane that answers over TLS.
fn fingerprint(daemon: &Daemon) -> String {
    daemon.log.wait_for("it listens", |line| line.contains("api.listening"));
    let line = daemon.log.wait_for("its fingerprint", |line| line.contains("api.certificate\""));
    let line: Value = serde_json::from_str(&line).unwrap();
    let fingerprint = line["sha256"].as_str().unwrap().to_owned();
    assert_eq!(fingerprint.len(), 64, "{fingerprint}");
    fingerprint
}

/// `ironctl` at the daemon's address with `https://`, and with its token.
fn ctl(home: &Home, daemon: &Daemon, words: &[&str]) -> Output {
    let address = format!("https://{}", daemon.address);
    let mut command = home.command([&["ctl", "--addr", &address], words].concat());
    finish(command.env("IRONCLAW_API_TOKEN", daemon.token()).spawn().unwrap())
}

#[track_caller]
fn told(output: &Output, code: i32, about: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(!said.contains("panicked") && said.trim().lines().count() == 1, "{said}");
    for word in about {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

fn secure(home: &Home) -> Serve<'_> {
    Serve::new(home, Runtime::Native).flag("--tls", "self-signed")
}

#[test]
fn a_certificate_of_its_own_making_end_to_end() {
    let home = Home::new(Build::Release, User::Ordinary);
    let daemon = secure(&home).flag("--api-host", "box.example").start();
    let pin = fingerprint(&daemon);
    eventually("it is ready, over TLS", || {
        ctl(&home, &daemon, &["--tls-fingerprint", &pin, "status"]).status.success().then_some(())
    });
    // The answer comes over an event stream.
    let colons: Vec<&str> = (0..32).map(|at| &pin[2 * at..2 * at + 2]).collect();
    let spoken =
        ctl(&home, &daemon, &["chat", "mock-agent", "hello", "--tls-fingerprint", &colons.join(":")]);
    assert!(
        spoken.status.success() && String::from_utf8_lossy(&spoken.stdout).contains("hello"),
        "{spoken:?}"
    );

    let other = format!("{}{}", if pin.starts_with('0') { '1' } else { '0' }, &pin[1..]);
    told(&ctl(&home, &daemon, &["agent", "list", "--tls-fingerprint", &other]), 1, &["fingerprint", "log"]);
    told(&ctl(&home, &daemon, &["agent", "list"]), 1, &["--tls-fingerprint", "log"]);
    told(&ctl(&home, &daemon, &["agent", "list", "--tls-fingerprint", "12"]), 2, &["64 hexadecimal"]);
    let mut by_environment = home.command(["ctl", "agent", "list"]);
    by_environment
        .env("IRONCLAW_ADDR", format!("https://{}", daemon.address))
        .env("IRONCLAW_API_TOKEN", daemon.token())
        .env("IRONCLAW_TLS_FINGERPRINT", &pin);
    let listed = finish(by_environment.spawn().unwrap());
    assert!(listed.status.success(), "{listed:?}");

    // On its own machine it is found beside the token, and shown; what is found elsewhere is another one's.
    let at = |state: &Path, words: &[&str]| {
        let mut command = home.command([&["ctl"], words].concat());
        command.env("IRONCLAW_ADDR", format!("https://{}", daemon.address));
        command.env("IRONCLAW_API_TOKEN", daemon.token()).env("IRONCLAW_STATE_DIR", state);
        finish(command.spawn().unwrap())
    };
    let status = at(&home.state(), &["status"]);
    assert!(status.status.success() && String::from_utf8_lossy(&status.stdout).contains(&pin), "{status:?}");
    let status = at(&home.state(), &["status", "--json"]);
    assert!(
        String::from_utf8_lossy(&status.stdout).contains(&format!("\"certificate\":\"{pin}\"")),
        "{status:?}"
    );
    let others = home.root.join("user/others");
    told(&at(&others, &["agent", "list"]), 1, &["--tls-fingerprint", "log"]);
    fs::create_dir_all(others.join("tls")).unwrap();
    fs::write(others.join("tls/certificate.der"), "another").unwrap();
    told(&at(&others, &["agent", "list"]), 1, &["another fingerprint"]);

    let key = home.state().join("tls/key.der");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(daemon.stop().success());
    // The next start has the same one, unless a name is new.
    let again = secure(&home).flag("--api-host", "box.example").start();
    assert_eq!(fingerprint(&again), pin);
    assert!(again.stop().success());
    let renamed = secure(&home).flag("--api-host", "box.example,other.example").start();
    assert_ne!(fingerprint(&renamed), pin);
}

#[test]
fn another_implementation_agrees_on_what_is_spoken() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = secure(&home).flag("--api-host", "box.example").start();
    let pin = fingerprint(&daemon);
    // Trusted by itself, so names and dates are judged as well.
    let roots = pem(&home, &home.state().join("tls/certificate.der"));
    for (version, name) in [("TLSv1_3", "TLSv1.3"), ("TLSv1_2", "TLSv1.2")] {
        let output = python(&daemon, version, roots.to_str().unwrap(), &head("/healthz", "localhost"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with(&format!("{name} http/1.1 {pin}\nHTTP/1.1 200 ")), "{output:?}");
    }
    for version in ["TLSv1", "TLSv1_1"] {
        let output = python(&daemon, version, "", &head("/healthz", "localhost"));
        assert!(!output.status.success() && output.stdout.is_empty(), "{version}: {output:?}");
    }
    // Names and origins as everywhere, with the scheme that a browser would have.
    let ask = |host: &str, origin: &str| {
        let request =
            head("/healthz", host).replace("Connection", &format!("Origin: {origin}\r\nConnection"));
        let output = python(&daemon, "TLSv1_3", "", &request);
        String::from_utf8_lossy(&output.stdout).lines().nth(1).unwrap_or_default()[9..12].to_owned()
    };
    assert_eq!(ask("box.example:8787", "https://box.example:8787"), "200");
    assert_eq!(ask("box.example:8787", "http://box.example:8787"), "403");
    assert_eq!(ask("evil.example", "https://evil.example"), "421");
    // Who forgets the s is told, and what is neither TLS nor HTTP is not waited for.
    let plain = Request::get("/v1/agents").token(&daemon.token()).send(daemon.address).unwrap();
    assert_eq!((plain.status, plain.text().contains("https://")), (400, true), "{}", plain.text());
    let mut noise = TcpStream::connect(daemon.address).unwrap();
    noise.set_read_timeout(Some(PATIENCE)).unwrap();
    noise.write_all(&[22, 3, 1, 0, 5, 9, 9, 9, 9, 9]).unwrap();
    let ended = noise.read_to_end(&mut Vec::new());
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    let mut command = home.command(["ctl", "--addr", &format!("http://{}", daemon.address), "agent", "list"]);
    told(&finish(command.env("IRONCLAW_API_TOKEN", "x").spawn().unwrap()), 1, &["is not ironclaw"]);
}

/// A DER certificate as PEM, by Python.
fn pem(home: &Home, der: &Path) -> PathBuf {
    let path = home.root.join("roots.pem");
    let script = "import ssl, sys; open(sys.argv[2], 'w').write(ssl.DER_cert_to_PEM_cert(open(sys.argv[1], 'rb').read()))";
    let status = Command::new("python3").args(["-c", script]).args([der, &path]).status().unwrap();
    assert!(status.success());
    path
}

/// Certificates that OpenSSL made: an authority, one that it vouches for with an RSA key, and the key's file.
struct Authority {
    roots: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new(directory: &Path) -> Authority {
        Authority::of(directory, "DNS:localhost,IP:127.0.0.1")
    }

    /// One that vouches for these names, and for no other use.
    fn of(directory: &Path, names: &str) -> Authority {
        let path = |name: &str| directory.join(name);
        let script = "set -e; cd \"$1\"
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
            openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=box
            printf 'subjectAltName=%s\\nbasicConstraints=CA:FALSE\\n' \"$2\" >names
            openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out leaf.pem
            cat leaf.pem ca.pem >chain.pem; chmod 600 key.pem";
        let output =
            Command::new("sh").args(["-c", script, "sh"]).arg(directory).arg(names).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Authority { roots: path("ca.pem"), chain: path("chain.pem"), key: path("key.pem") }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A renewed certificate is taken at SIGHUP without a restart; files that cannot be used change nothing.
#[test]
fn a_renewed_certificate_is_taken_while_it_runs() {
    let home = Home::new(Build::Release, User::Root);
    let directory = home.root.join("user");
    let made = Authority::new(&directory);
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--tls-cert", text(&made.chain))
        .flag("--tls-key", text(&made.key))
        .start();
    let first = fingerprint(&daemon);
    let hup = || {
        let id = rustix::process::Pid::from_raw(daemon.id()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::HUP).unwrap();
    };
    let served = || {
        let output = python(&daemon, "TLSv1_3", "", &head("/healthz", "localhost"));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("HTTP/1.1 200 "), "{said}");
        said.lines().next().unwrap().split(' ').nth(2).unwrap().to_owned()
    };
    assert_eq!(served(), first);
    // Nothing changes without the signal.
    let second_of = Authority::new(&directory);
    assert_eq!(served(), first);
    hup();
    let told = daemon
        .log
        .wait_for("the new certificate", |line| line.contains("api.certificate\"") && !line.contains(&first));
    let second = served();
    assert!(second != first && told.contains(&second), "{told}");

    let (chain, key) = (&second_of.chain, &second_of.key);
    let spoils: [Box<dyn Fn() -> std::io::Result<()>>; 3] = [
        // Half of a renewal: the key is another's.
        Box::new(|| std::fs::copy(directory.join("ca.key"), key).map(drop)),
        Box::new(|| std::fs::write(chain, "no certificate")),
        Box::new(|| std::fs::remove_file(chain)),
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        spoil().unwrap();
        hup();
        eventually("it is refused", || {
            let text = daemon.log.text();
            (text.matches("api.certificate_refused").count() > number).then_some(())
        });
        assert_eq!(served(), second);
    }
    assert!(daemon.stop().success());
}

#[test]
fn a_certificate_from_files() {
    let home = Home::new(Build::Release, User::Root);
    let made = Authority::new(&home.root.join("user"));
    // What renews certificates leaves a link to the newest key.
    let link = home.root.join("user/link.pem");
    std::os::unix::fs::symlink("key.pem", &link).unwrap();
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--tls-cert", text(&made.chain))
        .flag("--tls-key", text(&link))
        .start();
    let pin = fingerprint(&daemon);
    eventually("it answers those who know the authority", || {
        ctl(&home, &daemon, &["--ca-file", text(&made.roots), "agent", "list"]).status.success().then_some(())
    });
    let output = python(&daemon, "TLSv1_3", text(&made.roots), &head("/healthz", "localhost"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("HTTP/1.1 200 "), "{output:?}");
    assert!(ctl(&home, &daemon, &["--tls-fingerprint", &pin, "agent", "list"]).status.success());
    told(&ctl(&home, &daemon, &["agent", "list"]), 1, &["--ca-file"]);
    told(&ctl(&home, &daemon, &["--ca-file", text(&made.key), "agent", "list"]), 1, &["no certificate"]);
    let both = ["--ca-file", text(&made.roots), "--tls-fingerprint", &pin, "agent", "list"];
    told(&ctl(&home, &daemon, &both), 2, &["exclude each other"]);
    assert!(daemon.stop().success());
    // A name that the certificate lacks, where the authority is trusted all the same.
    let made = Authority::of(&home.root.join("user"), "DNS:box.example");
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--tls-cert", text(&made.chain))
        .flag("--tls-key", text(&made.key))
        .start();
    fingerprint(&daemon);
    told(
        &ctl(&home, &daemon, &["--ca-file", text(&made.roots), "agent", "list"]),
        1,
        &["other names", "--addr"],
    );
}

/// `serve` with these words, run to its end.
fn serve(home: &Home, words: &[&str]) -> Output {
    let state = home.state().display().to_string();
    let socket = home.model_socket().display().to_string();
    let common =
        ["serve", "--dev", "--runtime", "native", "--state-dir", &state, "--model-proxy-socket", &socket];
    let address: &[&str] = if words.contains(&"--api-addr") { &[] } else { &["--api-addr", "127.0.0.1:0"] };
    home.run([&common, address, words].concat())
}

#[test]
fn a_certificate_that_cannot_be_used_is_one_clear_line() {
    let home = Home::new(Build::Release, User::Root);
    let user = home.root.join("user");
    let made = Authority::new(&user);
    let garbage = user.join("garbage.pem");
    fs::write(&garbage, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let open = user.join("open.pem");
    fs::copy(&made.key, &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let missing = user.join("missing.pem");
    let ca_key = user.join("ca.key");
    for (certificate, key, about) in [
        (&made.chain, &ca_key, &["is not that of the certificate"][..]),
        (&garbage, &made.key, &["garbage.pem", "certificate"]),
        (&made.key, &made.key, &["key.pem", "holds no certificate"]),
        (&made.chain, &made.chain, &["chain.pem", "holds no key"]),
        (&made.chain, &open, &["open.pem", "chmod 600"]),
        (&missing, &made.key, &["missing.pem", "--tls-cert"]),
        (&made.chain, &missing, &["missing.pem", "--tls-key"]),
    ] {
        fs::set_permissions(&made.chain, fs::Permissions::from_mode(0o600)).unwrap();
        let output = serve(&home, &["--tls-cert", text(certificate), "--tls-key", text(key)]);
        told(&output, 1, about);
    }
    assert!(!home.state().exists(), "nothing was begun");
}

#[test]
fn inv_098_an_address_that_others_reach_needs_protection() {
    let home = Home::new(Build::Release, User::Root);
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        told(
            &serve(&home, &["--api-addr", address]),
            2,
            &["--tls self-signed", "--api-behind-proxy", "tailscale"],
        );
    }
    for address in ["tailscale", "tailscale:0", "100.64.1.2:0"] {
        told(&serve(&home, &["--api-addr", address]), 1, &["tailnet", "tunnel", "tailscale up"]);
    }
    for address in ["http://192.0.2.1:1", "http://box.example"] {
        told(&home.run(["ctl", "--addr", address, "agent", "list"]), 2, &["unprotected", "https://"]);
    }
}

/// The status for a Host and an Origin.
fn status(daemon: &Daemon, headers: &[(&'static str, &str)]) -> u16 {
    let mut request = Request::get("/v1/agents");
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    daemon.send(request).status
}

#[test]
fn behind_a_proxy_only_its_name_is_ours() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native)
        .env("IRONCLAW_API_BEHIND_PROXY", "true")
        .flag("--api-public-url", "https://box.example:8443")
        .flag("--api-host", "also.example")
        .ready();
    for (headers, expected) in [
        (&[("Host", "box.example:8443")][..], 200),
        (&[("Host", "BOX.example")], 200),
        (&[("Host", "also.example")], 200),
        (&[("Host", "localhost:1")], 200),
        (&[("Host", "evil.example")], 421),
        // What a proxy says about the request is not believed.
        (&[("Host", "evil.example"), ("X-Forwarded-Host", "box.example")], 421),
        (&[("Host", "evil.example"), ("Forwarded", "host=box.example;proto=https")], 421),
        (&[("Host", "box.example:8443"), ("X-Forwarded-Host", "evil.example")], 200),
        (&[("Host", "box.example:8443"), ("Origin", "https://box.example:8443")], 200),
        (&[("Host", "127.0.0.1:8787"), ("Origin", "https://box.example:8443")], 200),
        (&[("Host", "box.example:8443"), ("Origin", "http://box.example:8443")], 403),
        (&[("Host", "box.example:8443"), ("Origin", "https://box.example")], 403),
        (&[("Host", "box.example:8443"), ("Origin", "https://evil.example")], 403),
        (&[("Host", "box.example:8443"), ("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        assert_eq!(status(&daemon, headers), expected, "{headers:?}");
    }
}

#[test]
fn directly_only_loopback_and_listed_names_are_ours() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).flag("--api-host", "box.example").ready();
    for (host, expected) in [
        ("box.example:8787", 200),
        ("localhost", 200),
        ("[::1]:9", 200),
        ("192.0.2.1", 421),
        ("box.example.evil.example", 421),
        ("evil.example", 421),
    ] {
        assert_eq!(status(&daemon, &[("Host", host)]), expected, "{host}");
    }
}

#[test]
fn who_only_connects_keeps_nobody_out() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = secure(&home).start();
    let pin = fingerprint(&daemon);
    eventually("it is ready", || {
        ctl(&home, &daemon, &["--tls-fingerprint", &pin, "status"]).status.success().then_some(())
    });
    // More than there are places: some say nothing, some begin a handshake and stop.
    let silent: Vec<TcpStream> = (0..256)
        .map(|n| {
            let mut stream = TcpStream::connect(daemon.address).unwrap();
            if n % 2 == 1 {
                stream.write_all(&[22, 3, 1, 2, 0]).unwrap();
            }
            stream
        })
        .collect();
    let served = ctl(&home, &daemon, &["--tls-fingerprint", &pin, "agent", "list"]);
    // Looked at before anything is judged: the newest still has its place, so it was the oldest that made room.
    let newest = is_open(silent.last().unwrap());
    assert!(served.status.success(), "{served:?}");
    assert!(newest, "all of them were late before anybody was served");
    let mut oldest = &silent[0];
    oldest.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(oldest.read(&mut [0]), Ok(0) | Err(_)), "the oldest kept its place");
}

/// Whether the other side has not ended this connection.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let open = matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    open
}

/// A connection that stays; one request after the other.
struct Kept {
    stream: TcpStream,
    host: SocketAddr,
}

impl Kept {
    fn new(to: SocketAddr) -> Kept {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Kept { stream, host: to }
    }

    /// Sends all of these at once and gives the answers' statuses and heads.
    fn ask(&mut self, path: &str, token: &str, times: usize) -> Vec<(u16, String)> {
        let one =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n", self.host);
        self.stream.write_all(one.repeat(times).as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let mut answers = Vec::new();
        while answers.len() < times {
            let mut buffer = [0; 65536];
            let read = self.stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the connection ended after {} answers", answers.len());
            bytes.extend(&buffer[..read]);
            while let Some((status, head, end)) = whole(&bytes) {
                answers.push((status, head));
                bytes.drain(..end);
            }
        }
        answers
    }
}

/// Status, head and end of the first whole answer.
fn whole(bytes: &[u8]) -> Option<(u16, String, usize)> {
    let body = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..body]).to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().unwrap();
    (bytes.len() >= body + length).then(|| (head[9..12].parse().unwrap(), head, body + length))
}

#[test]
fn a_token_has_its_rate() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).flag("--token-rate", "1").start();
    let token = eventually("the token is there", || {
        let token = fs::read_to_string(home.state().join("api-token")).ok()?;
        let answer = Request::get("/v1/agents").send(daemon.address).ok()?;
        (answer.status == 401).then(|| token.trim().to_owned())
    });
    let answers = Kept::new(daemon.address).ask("/v1/agents", &token, 100);
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 429).collect();
    assert!(answers[..4].iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert!(!refused.is_empty(), "{answers:?}");
    assert!(answers.iter().all(|(status, _)| [200, 429].contains(status)), "{answers:?}");
    assert!(refused.iter().all(|(_, head)| head.contains("\r\nretry-after: 1\r\n")), "{refused:?}");
    // What supervisors ask is always answered.
    let answers = Kept::new(daemon.address).ask("/healthz", &token, 100);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[test]
fn many_wrong_tokens_make_others_wrong_ones_wait_and_no_right_one() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let answers = Kept::new(daemon.address).ask("/v1/agents", "wrong", 100);
    assert_eq!(answers[0].0, 401);
    assert_eq!(answers[99].0, 429);
    let late: Answer = Request::get("/v1/agents").token("wrong").send(daemon.address).unwrap();
    assert_eq!((late.status, late.json()["type"].as_str()), (429, Some("too_many_failures")));
    assert_eq!(daemon.send(Request::get("/v1/agents")).status, 200);
    // Lines come in order: with this one all before it are there.
    daemon.chat("mock-agent", "main").say("the last");
    daemon.log.wait_for("the last line", |line| line.contains("api.accepted"));
    let lines = daemon.log.text();
    assert_eq!(lines.matches("api.wrong_token").count(), 1, "{lines}");
    assert!(lines.matches("api.request").count() < 90, "strangers fill the log");
}

#[test]
fn writes_are_in_the_log_and_queries_are_not() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    daemon.chat("mock-agent", "main").ask("a word that is nobody's business");
    daemon.send(Request::get("/v1/agents?limit=zzz-in-the-query"));
    daemon.send(Request::get("/v1/%0aapi.request%1b[2J\u{202e}"));
    let line = daemon.log.wait_for("the unknown path", |line| line.contains("[2J"));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["status"].as_str(), line["code"].as_str()), (Some("404"), Some("not_found")));
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    let all = daemon.log.text();
    let sent = all.lines().find(|line| line.contains("\"POST\"")).unwrap_or_else(|| panic!("{all}"));
    assert!(sent.contains("/v1/chat/mock-agent/messages") && sent.contains("\"202\""), "{sent}");
    assert!(!all.contains("business") && !all.contains("zzz-in-the-query"), "{all}");
    assert!(!all.contains("\u{202e}") && !all.contains(&daemon.token()), "{all}");
}
