//! What the operator said about model providers: credentials from the environment, addresses, the credential gateway,
//! the model of development's agent. Touches the files of credentials, to see that they are there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::flags::Flags;
use super::{ConfigError, Secret, absolute, read_secret, usage};
use crate::contract::address::{Host, Name};
use crate::controlplane::brokers::model::Provider;
use crate::controlplane::brokers::model::credential::{Gcloud, Source, is_credential};
use crate::controlplane::brokers::model::endpoint::Endpoint;
use crate::controlplane::brokers::model::upstream::{Gateway, Trust, Upstream, Upstreams};

/// A variable of the environment, if it is set and not empty.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All that `gcloud` gets to see of the environment.
const GCLOUD_ENVIRONMENT: &[&str] = &[
    "HOME",
    "PATH",
    "CLOUDSDK_CONFIG",
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "CLOUDSDK_CORE_ACCOUNT",
    "CLOUDSDK_CORE_PROJECT",
];

/// What is known of models.
#[derive(Clone, Debug)]
pub struct Models {
    /// Who can be asked, and how.
    pub upstreams: Upstreams,
    /// Provider and model of the agent that `--dev` makes.
    pub dev: (Provider, String),
    /// Files of credentials.
    pub files: Vec<PathBuf>,
}

pub(super) fn models(flags: &Flags, environment: Environment<'_>) -> Result<Models, ConfigError> {
    let set = |name: &str| environment(name).filter(|text| !text.is_empty());
    let mut files = Vec::new();
    let gateway = gateway(flags, &set, &mut files)?;
    let listed = listed(&set)?;
    if gateway.is_none() && !listed.is_empty() {
        return Err(wrong("IRONCLAW_MODEL_GATEWAY_HOSTS", "it needs IRONCLAW_MODEL_GATEWAY_URL"));
    }
    let named = named_addresses(flags.model_upstream.as_deref().unwrap_or_default())?;
    let mut all = Vec::new();
    for provider in Provider::all().filter(|provider| *provider != Provider::Mock) {
        let (mut source, variable) = source(provider, &set, &mut files)?;
        let given = named.iter().find(|(of, _)| *of == provider).map(|(_, endpoint)| endpoint.clone());
        let endpoint = match given {
            Some(endpoint) => Some(endpoint),
            None => address(provider, flags, &set, !matches!(source, Source::Nothing))?,
        };
        let Some(endpoint) = endpoint else {
            if !matches!(source, Source::Nothing) {
                return Err(wrong(
                    variable,
                    "it is set, but where to use it is not; see `ironclaw help models`",
                ));
            }
            continue;
        };
        let is_by_gateway = listed.contains(&(endpoint.host.clone(), endpoint.port));
        let has_credential = !matches!(source, Source::Nothing);
        if is_by_gateway {
            if has_credential {
                let text = format!(
                    "{} is reached through the credential gateway, which has its credential; unset {variable}, or \
                     take the host out of IRONCLAW_MODEL_GATEWAY_HOSTS",
                    endpoint.host
                );
                return Err(ConfigError::Usage(text));
            }
            if !endpoint.is_tls {
                return Err(wrong(
                    "IRONCLAW_MODEL_GATEWAY_HOSTS",
                    "only hosts that are spoken to by https can be listed",
                ));
            }
            source = Source::Nothing;
        }
        let needs_none = matches!(provider, Provider::Local | Provider::Ollama);
        if !is_by_gateway && !has_credential && !needs_none {
            continue;
        }
        // In clear text everybody on the way reads the credential and the conversation.
        let is_here = endpoint.host.is_loopback();
        if !endpoint.is_tls && !is_here && (has_credential || !needs_none) {
            let text = format!("{endpoint} is not encrypted; use https, or an address of this machine");
            return Err(wrong(variable, &text));
        }
        all.push(Upstream { provider, endpoint, source, is_by_gateway });
    }
    let more_roots = flags.ca_file.as_deref().map(|path| absolute("--ca-file", path)).transpose()?;
    let dev = dev(flags, &all)?;
    Ok(Models { upstreams: Upstreams { all, gateway, more_roots }, dev, files })
}

fn wrong(name: &str, what: &str) -> ConfigError {
    usage(name, what)
}

/// A secret of a variable, or of the file that the variable with `_FILE` names.
fn source(
    provider: Provider,
    set: Environment<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<(Source, &'static str), ConfigError> {
    let facts = provider.facts();
    for variable in facts.keys {
        if let Some(text) = set(variable) {
            if !is_credential(&text) {
                return Err(wrong(variable, "expected visible ASCII characters without spaces"));
            }
            return Ok((Source::Given(Secret::new(text)), variable));
        }
        if let Some(path) = set(&format!("{variable}_FILE")) {
            let path = absolute(variable, &path)?;
            let source = Source::File(path.clone());
            source.check().map_err(|error| ConfigError::File(error.to_string()))?;
            files.push(path);
            return Ok((source, variable));
        }
    }
    if provider == Provider::Vertex && is_true("GOOGLE_VERTEX_USE_GCLOUD", set)? {
        let program = set("PATH")
            .into_iter()
            .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
            .map(|directory| directory.join("gcloud"))
            .find(|program| program.is_absolute() && program.is_file())
            .ok_or_else(|| {
                wrong(
                    "GOOGLE_VERTEX_USE_GCLOUD",
                    "no `gcloud` is found by PATH; install the Google Cloud CLI",
                )
            })?;
        let environment =
            GCLOUD_ENVIRONMENT.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?))).collect();
        return Ok((Source::Gcloud(Arc::new(Gcloud::new(program, environment))), "GOOGLE_VERTEX_USE_GCLOUD"));
    }
    Ok((Source::Nothing, facts.keys.first().copied().unwrap_or("IRONCLAW_MODEL_GATEWAY_HOSTS")))
}

fn is_true(name: &str, set: Environment<'_>) -> Result<bool, ConfigError> {
    match set(name).as_deref() {
        None | Some("0" | "false" | "no") => Ok(false),
        Some("1" | "true" | "yes") => Ok(true),
        Some(other) => Err(wrong(name, &format!("{other:?} is neither true nor false"))),
    }
}

/// `PROVIDER=URL`, with commas between.
fn named_addresses(text: &str) -> Result<Vec<(Provider, Endpoint)>, ConfigError> {
    const FLAG: &str = "--model-upstream";
    let mut all = Vec::new();
    for one in text.split(',').filter(|one| !one.is_empty()) {
        let (name, url) = one.split_once('=').ok_or_else(|| wrong(FLAG, "expected PROVIDER=URL"))?;
        let provider = Provider::named(name).map_err(|error| wrong(FLAG, &error.to_string()))?;
        if matches!(provider, Provider::Mock) {
            return Err(wrong(FLAG, "mock is in this process and has no address"));
        }
        if all.iter().any(|(known, _)| *known == provider) {
            return Err(wrong(FLAG, &format!("{name} is named twice")));
        }
        all.push((provider, Endpoint::parse(url).map_err(|why| wrong(FLAG, why))?));
    }
    Ok(all)
}

/// Where a provider is, where nobody named another place; `None` where nobody knows.
fn address(
    provider: Provider,
    flags: &Flags,
    set: Environment<'_>,
    has_credential: bool,
) -> Result<Option<Endpoint>, ConfigError> {
    let parse = |name: &str, url: &str| Endpoint::parse(url).map_err(|why| wrong(name, why));
    match provider {
        Provider::Local => {
            let Some(url) = &flags.local_model_url else { return Ok(None) };
            parse("--local-model-url", url).map(below_v1).map(Some)
        }
        Provider::Ollama => match set("OLLAMA_HOST") {
            None => parse("OLLAMA_HOST", provider.facts().base).map(Some),
            Some(text) if text.contains("://") => parse("OLLAMA_HOST", &text).map(below_v1).map(Some),
            Some(text) => {
                let host = Host::parse(&text)
                    .ok_or_else(|| wrong("OLLAMA_HOST", "expected HOST, HOST:PORT or a URL"))?;
                let url = format!("http://{}:{}", host.name, host.port_or(11434));
                parse("OLLAMA_HOST", &url).map(below_v1).map(Some)
            }
        },
        Provider::Vertex => vertex(set, has_credential),
        _ => parse("upstream", provider.facts().base).map(Some),
    }
}

/// A server of Chat Completions has them below `/v1`, where its address says nothing else.
fn below_v1(mut endpoint: Endpoint) -> Endpoint {
    if endpoint.base.is_empty() {
        "/v1".clone_into(&mut endpoint.base);
    }
    endpoint
}

fn vertex(set: Environment<'_>, has_credential: bool) -> Result<Option<Endpoint>, ConfigError> {
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, set(name)?)));
    let Some((variable, project)) = first(["GOOGLE_VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT"]) else {
        return if has_credential {
            Err(wrong(
                "GOOGLE_VERTEX_PROJECT",
                "a credential of Vertex AI is set, and no project to use it for",
            ))
        } else {
            Ok(None)
        };
    };
    let plain = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !plain(&project) {
        return Err(wrong(variable, "expected a project's id: lower-case letters, digits and -"));
    }
    let location = first(["GOOGLE_VERTEX_LOCATION", "GOOGLE_CLOUD_LOCATION"]);
    let location = location.unwrap_or(("GOOGLE_VERTEX_LOCATION", "us-central1".to_owned()));
    let (variable, location) = location;
    if !plain(&location) {
        return Err(wrong(variable, "expected a location such as europe-west4, or global"));
    }
    let host = match location.as_str() {
        "global" => "aiplatform.googleapis.com".to_owned(),
        location => format!("{location}-aiplatform.googleapis.com"),
    };
    let url = format!("https://{host}/v1/projects/{project}/locations/{location}/publishers/google");
    Endpoint::parse(&url).map(Some).map_err(|why| wrong(variable, why))
}

fn gateway(
    flags: &Flags,
    set: Environment<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Option<Gateway>, ConfigError> {
    const URL: &str = "IRONCLAW_MODEL_GATEWAY_URL";
    const TRUST: &str = "--model-gateway-ca-file";
    let url = match (set(URL), set("IRONCLAW_MODEL_GATEWAY_URL_FILE")) {
        (Some(url), _) => url,
        (None, Some(path)) => {
            files.push(absolute(URL, &path)?);
            read_secret(Path::new(&path))?
        }
        (None, None) => {
            return match (&flags.model_gateway_ca_file, flags.model_gateway_insecure) {
                (None, false) => Ok(None),
                _ => Err(wrong(TRUST, &format!("it belongs to a credential gateway; set {URL}"))),
            };
        }
    };
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| wrong(URL, "expected http[s]://[USER:PASSWORD@]HOST[:PORT]"))?;
    let (login, authority) = match rest.rsplit_once('@') {
        Some((login, authority)) => (Some(login), authority),
        None => (None, rest),
    };
    let login =
        login.map(|login| unescaped(login).ok_or_else(|| wrong(URL, "its user and password cannot be read")));
    let login = login.transpose()?.map(Secret::new);
    let endpoint = Endpoint::parse(&format!("{scheme}://{authority}")).map_err(|why| wrong(URL, why))?;
    if !endpoint.base.is_empty() {
        return Err(wrong(URL, "a proxy has no path"));
    }
    if login.is_some() && !endpoint.is_tls && !endpoint.host.is_loopback() {
        return Err(wrong(URL, "its password would go over the network in clear text; use https"));
    }
    let trust = match (&flags.model_gateway_ca_file, flags.model_gateway_insecure) {
        (Some(_), true) => return Err(wrong(TRUST, "it excludes --model-gateway-insecure; choose one")),
        (Some(path), false) => Trust::Roots(absolute(TRUST, path)?),
        (None, true) if endpoint.host.is_loopback() => Trust::Unverified,
        (None, true) => {
            return Err(wrong("--model-gateway-insecure", "only for a gateway on this machine"));
        }
        (None, false) => {
            return Err(wrong(
                TRUST,
                "a credential gateway shows certificates of its own; name the file of its roots",
            ));
        }
    };
    Ok(Some(Gateway { endpoint, login, trust }))
}

/// The hosts that are reached through the gateway.
fn listed(set: Environment<'_>) -> Result<Vec<(Name, u16)>, ConfigError> {
    const HOSTS: &str = "IRONCLAW_MODEL_GATEWAY_HOSTS";
    let text = set(HOSTS).unwrap_or_default();
    let hosts = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    hosts
        .map(|one| {
            let host =
                Host::parse(one).ok_or_else(|| wrong(HOSTS, &format!("{one:?} is no HOST or HOST:PORT")))?;
            let port = host.port_or(443);
            Ok((host.name, port))
        })
        .collect()
}

/// A user and a password as a URL has them (RFC 3986 §2.1).
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    let text = String::from_utf8(out).ok()?;
    text.chars().all(|c| !c.is_control()).then_some(text)
}

/// What was said; else a model of the operator's own, else the first whose credential there is, else the mock.
fn dev(flags: &Flags, all: &[Upstream]) -> Result<(Provider, String), ConfigError> {
    let model = |provider: Provider| match (&flags.dev_model, provider, &flags.local_model) {
        (Some(model), ..) => model.clone(),
        (None, Provider::Local, Some(model)) => model.clone(),
        (None, ..) => provider.facts().model.to_owned(),
    };
    let provider = match &flags.dev_provider {
        Some(name) => Provider::named(name).map_err(|error| wrong("--dev-provider", &error.to_string()))?,
        None => {
            let local = all.iter().find(|upstream| upstream.provider == Provider::Local);
            let keyed = || all.iter().find(|upstream| upstream.provider != Provider::Ollama);
            local.or_else(keyed).map_or(Provider::Mock, |upstream| upstream.provider)
        }
    };
    let model = model(provider);
    if model.is_empty() {
        return Err(wrong(
            "--local-model",
            "it is needed: a server of one's own has models that only its owner knows",
        ));
    }
    if provider == Provider::Mock && flags.dev_model.is_some() && flags.dev_provider.is_none() {
        return Err(wrong("--dev-model", "no provider is set up that has it; see `ironclaw help models`"));
    }
    Ok((provider, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(words: &[&str], environment: &[(&str, &str)]) -> Result<Models, String> {
        let find = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        models(&Flags::from_words(words).unwrap(), &find).map_err(|error| error.to_string())
    }

    fn endpoint(models: &Models, provider: Provider) -> Option<String> {
        let found = models.upstreams.all.iter().find(|upstream| upstream.provider == provider);
        found.map(|upstream| upstream.endpoint.to_string())
    }

    #[test]
    fn a_credential_opens_the_way_to_its_provider_and_to_no_other() {
        let models = with(&[], &[]).unwrap();
        let names: Vec<&str> = models.upstreams.all.iter().map(|upstream| upstream.provider.name()).collect();
        assert_eq!(names, ["ollama"], "which wants none");
        assert_eq!(models.dev, (Provider::Mock, "mock".to_owned()));
        let models = with(&[], &[("GROQ_API_KEY", "0123456789abc"), ("OLLAMA_HOST", "box:1")]).unwrap();
        assert_eq!(endpoint(&models, Provider::Groq).unwrap(), "https://api.groq.com/openai/v1");
        assert_eq!(endpoint(&models, Provider::Ollama).unwrap(), "http://box:1/v1");
        assert_eq!(models.dev.0, Provider::Groq);
        assert!(!format!("{models:?}").contains("0123456789abc"));
        assert_eq!(endpoint(&models, Provider::Codex), None);
    }

    #[test]
    fn vertex_is_where_project_and_location_say() {
        let token = ("GOOGLE_VERTEX_ACCESS_TOKEN", "ya29.abc");
        let models = with(&[], &[token, ("GOOGLE_CLOUD_PROJECT", "p-1")]).unwrap();
        assert_eq!(
            endpoint(&models, Provider::Vertex).unwrap(),
            "https://us-central1-aiplatform.googleapis.com/v1/projects/p-1/locations/us-central1/publishers/google"
        );
        let global =
            with(&[], &[token, ("GOOGLE_VERTEX_PROJECT", "p"), ("GOOGLE_VERTEX_LOCATION", "global")]);
        assert!(endpoint(&global.unwrap(), Provider::Vertex).unwrap().starts_with("https://aiplatform."));
        assert!(with(&[], &[token]).unwrap_err().contains("GOOGLE_VERTEX_PROJECT"));
        assert!(with(&[], &[token, ("GOOGLE_CLOUD_PROJECT", "a/b")]).unwrap_err().contains("project's id"));
    }

    #[test]
    fn what_cannot_be_right_is_refused_without_repeating_a_secret() {
        let key = ("OPENAI_API_KEY", "sk-0123456789");
        for (words, environment, expected) in [
            (&[][..], &[("OPENAI_API_KEY", "a b")][..], "visible ASCII"),
            (&["--model-upstream", "openai=http://10.0.0.1/v1"], &[key], "not encrypted"),
            (&["--model-upstream", "openai=https://u:pass@h/v1"], &[key], "expected http"),
            (&["--model-upstream", "openai"], &[], "PROVIDER=URL"),
            (&["--model-upstream", "mock=https://h"], &[], "no address"),
            (&["--model-upstream", "nobody=https://h"], &[], "not a model provider"),
            (
                &["--local-model-url", "http://box:8080"],
                &[("IRONCLAW_LOCAL_MODEL_KEY", "k-012345678"), ("X", "")],
                "not encrypted",
            ),
            (&["--local-model-url", "http://box:8080"], &[], "--local-model"),
            (&[], &[("IRONCLAW_LOCAL_MODEL_KEY", "k-012345678")], "where to use it is not"),
            (&[], &[("IRONCLAW_MODEL_GATEWAY_HOSTS", "chatgpt.com")], "IRONCLAW_MODEL_GATEWAY_URL"),
            (&[], &[("IRONCLAW_MODEL_GATEWAY_URL", "http://127.0.0.1:1")], "name the file of its roots"),
            (
                &["--model-gateway-insecure"],
                &[("IRONCLAW_MODEL_GATEWAY_URL", "https://far:1")],
                "on this machine",
            ),
            (&["--model-gateway-insecure"], &[], "set IRONCLAW_MODEL_GATEWAY_URL"),
            (&["--model-gateway-insecure"], &[("IRONCLAW_MODEL_GATEWAY_URL", "gateway:1")], "expected http"),
            (
                &["--model-gateway-ca-file=/x"],
                &[("IRONCLAW_MODEL_GATEWAY_URL", "http://u:pass@far:1")],
                "clear text",
            ),
            (
                &["--model-gateway-insecure"],
                &[
                    key,
                    ("IRONCLAW_MODEL_GATEWAY_URL", "http://u:pass@[::1]:1"),
                    ("IRONCLAW_MODEL_GATEWAY_HOSTS", "api.openai.com"),
                ],
                "unset OPENAI_API_KEY",
            ),
            (&["--dev-provider", "azure"], &[], "not part of this build"),
            (&["--dev-model", "gpt"], &[], "no provider"),
        ] {
            let text = with(words, environment).unwrap_err();
            assert!(text.contains(expected), "{words:?} {environment:?}: {text}");
            assert!(
                !text.contains("pass@") && !text.contains("sk-0123456789") && !text.contains("k-012345678"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_gateways_hosts_are_reached_through_it() {
        let environment = [
            ("IRONCLAW_MODEL_GATEWAY_URL", "http://ann:p%40ss@127.0.0.1:3128"),
            ("IRONCLAW_MODEL_GATEWAY_HOSTS", "chatgpt.com, api.anthropic.com:443"),
            ("OPENAI_API_KEY", "sk-0123456789"),
        ];
        let models = with(&["--model-gateway-insecure"], &environment).unwrap();
        let way = |provider: Provider| {
            models
                .upstreams
                .all
                .iter()
                .find(|upstream| upstream.provider == provider)
                .map(|one| one.is_by_gateway)
        };
        assert_eq!(way(Provider::Codex), Some(true));
        assert_eq!(way(Provider::Anthropic), Some(true));
        assert_eq!(way(Provider::OpenAi), Some(false));
        let login = models.upstreams.gateway.unwrap().login.unwrap();
        assert_eq!(login.expose(), "ann:p@ss");
    }

    #[test]
    fn a_local_server_is_asked_below_v1_unless_its_address_says_otherwise() {
        for (url, base) in
            [("http://box:8080", "http://box:8080/v1"), ("http://box:8080/api/", "http://box:8080/api")]
        {
            let models = with(&["--local-model-url", url, "--local-model", "m"], &[]).unwrap();
            assert_eq!(endpoint(&models, Provider::Local).unwrap(), base);
            assert_eq!(models.dev, (Provider::Local, "m".to_owned()));
        }
    }
}
