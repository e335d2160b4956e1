//! The credential gateway: a provider whose credential is on no part of this host. What is asked of it goes through the
//! gateway by `CONNECT`, only for the hosts that are listed, and is believed only with the gateway's own certificates.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::hand::{approve, submit};
use crate::memory;
use crate::talk::last;
use crate::world::boxes::in_both_back_ends;
use crate::world::http::Request;
use crate::world::{Build, Home, Models, Runtime, Serve, User, marker};

in_both_back_ends!(codex_is_asked_through_the_gateway_and_nothing_else_is);

/// A gateway: takes `CONNECT` with the right login, ends the TLS, adds the credential, and asks the fake.
const GATEWAY: &str = r#"
import base64, socket, ssl, sys, threading
login, key, port, certificate, private = sys.argv[1:6]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, private)
expected = 'basic ' + base64.b64encode(login.encode()).decode()
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
def head(stream):
    text = b''
    while b'\r\n\r\n' not in text:
        piece = stream.recv(65536)
        if not piece:
            raise EOFError
        text += piece
    return text.split(b'\r\n\r\n', 1)
def serve(plain):
    try:
        asked, _ = head(plain)
        lines = asked.decode().split('\r\n')
        fields = {l.split(':', 1)[0].lower(): l.split(':', 1)[1].strip() for l in lines[1:]}
        given = fields.get('proxy-authorization', '')
        right = given[:6].lower() + given[6:] == expected
        print(lines[0], 'right' if right else 'wrong', flush=True)
        if not right:
            plain.sendall(b'HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n')
            return
        plain.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
        with context.wrap_socket(plain, server_side=True) as inner:
            text, body = head(inner)
            length = [int(l.split(b':')[1]) for l in text.split(b'\r\n') if l.lower().startswith(b'content-length')][0]
            while len(body) < length:
                body += inner.recv(65536)
            with socket.create_connection(('127.0.0.1', int(port))) as upstream:
                upstream.sendall(text + b'\r\nconnection: close\r\nauthorization: Bearer ' + key.encode() + b'\r\n\r\n' + body)
                while piece := upstream.recv(65536):
                    inner.sendall(piece)
    except (OSError, EOFError):
        pass
    finally:
        plain.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

struct Gateway {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Gateway {
    fn start(home: &Home, login: &str, key: &str, models: &Models) -> Gateway {
        certificates(home);
        let file = |name: &str| home.root.join(name).display().to_string();
        let mut child = Command::new("python3")
            .args(["-c", GATEWAY, login, key, &models.address.port().to_string()])
            .args([file("gateway.pem"), file("gateway.key")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        Gateway { child, said, port: line.trim().parse().unwrap() }
    }

    /// The next connection that it was asked for.
    fn asked(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ca.pem`, `other.pem`, and `gateway.pem` with its key for chatgpt.com, which the first vouches for.
fn certificates(home: &Home) {
    let run = |words: &[&str]| {
        let output = Command::new("openssl").args(words).current_dir(&home.root).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    for name in ["ca", "other"] {
        let (key, file) = (format!("{name}.key"), format!("{name}.pem"));
        run(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=a gateway of tests",
            "-keyout",
            &key,
            "-out",
            &file,
        ]);
    }
    run(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=chatgpt.com",
        "-keyout",
        "gateway.key",
        "-out",
        "gateway.csr",
    ]);
    std::fs::write(home.root.join("names"), "subjectAltName=DNS:chatgpt.com\n").unwrap();
    run(&[
        "x509",
        "-req",
        "-in",
        "gateway.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "gateway.pem",
    ]);
}

fn codex_is_asked_through_the_gateway_and_nothing_else_is(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let (codex, other) = (Models::start(), Models::start());
    let (password, key) = (marker() + &marker(), marker() + &marker());
    codex.tell("key", &json!({"key": key}));
    let mut gateway = Gateway::start(&home, &format!("iron:{password}"), &key, &codex);
    let url = format!("http://iron:{password}@127.0.0.1:{}", gateway.port);
    let serve = |roots: &str, url: &str| {
        Serve::new(&home, runtime)
            .flag("--dev-provider", "mock")
            .flag("--model-upstream", format!("openai={}/v1", other.base()))
            .flag("--model-gateway-ca-file", home.root.join(roots).display().to_string())
            .env("IRONCLAW_MODEL_GATEWAY_URL", url)
            .env("IRONCLAW_MODEL_GATEWAY_HOSTS", "chatgpt.com")
            .env("OPENAI_API_KEY", marker())
            .ready()
    };
    let daemon = serve("ca.pem", &url);
    for (agent, provider, model) in [("coder", "codex", "gpt-5.5"), ("talker", "openai", "gpt-4o")] {
        let payload = json!({"provider": provider, "model": model, "tools": ["read_file", "write_file"]});
        let change = submit(&daemon, "create_agent", agent, &payload).ok();
        assert_eq!(approve(&daemon, &change).status, 200);
    }
    let kept = marker();
    codex
        .will(&json!({"text": "I write.", "thoughts": 1, "calls": [
            {"name": "write_file", "input": {"path": "a", "content": kept}}]}))
        .will(&json!({"thoughts": 1, "calls": [
            {"name": "read_file", "input": {"path": "a"}}, {"name": "read_file", "input": {"path": "b"}}]}))
        .say("done");
    let chat = daemon.chat("coder", "main");
    assert_eq!(chat.ask("Keep it"), "done");
    assert_eq!(last(&codex)["body"].to_string().matches(&kept).count(), 2);
    assert_eq!(last(&codex)["headers"]["host"], "chatgpt.com");
    assert_eq!(gateway.asked(), "CONNECT chatgpt.com:443 HTTP/1.1 right");
    assert_eq!(codex.refused(), Vec::<String>::new());
    // What is not listed goes its own way.
    other.say("directly");
    assert_eq!(daemon.chat("talker", "main").ask("hello"), "directly");
    assert!(last(&other)["headers"]["authorization"].is_string());
    let guests = memory::of_guests(&home, &daemon, &[gateway.child.id()]);
    for secret in [&password, &key] {
        assert!(!guests.find(secret.as_bytes()), "a secret of the gateway is in a sandbox");
        assert!(!daemon.log.contains(secret));
    }
    assert!(daemon.stop().success());
    // Another's certificate, and a login that it does not take.
    let before = codex.requests().len();
    for (roots, url) in [
        ("other.pem", url.clone()),
        ("ca.pem", format!("http://iron:{}@127.0.0.1:{}", marker(), gateway.port)),
    ] {
        let daemon = serve(roots, &url);
        daemon.send(Request::post("/v1/agents/coder", &json!({"turn_seconds": 3}))).ok();
        let answer = daemon.chat("coder", &marker()).ask("hello");
        assert!(answer.starts_with("I could not get an answer"), "{answer}");
        assert!(!answer.contains(&password) && !daemon.log.contains(&password), "{answer}");
        assert!(daemon.stop().success());
    }
    assert_eq!(codex.requests().len(), before, "nothing was asked");
}
