//! Which accounts there are and what each is told: `channels.toml` in the state directory, and the environment for the
//! account of a platform that has no name. Everything is checked before anything is connected. Touches that file, and
//! the files that hold its secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::descriptor::{self, Descriptor};
use crate::contract::plain;
use crate::controlplane::config::Secret;
use crate::controlplane::state::{self, Readers};

/// A file of settings holds a few accounts.
const FILE_BYTES: usize = 64 << 10;
/// Longest value of a setting, in bytes.
const VALUE_BYTES: usize = 4096;
/// Accounts of all platforms.
pub const MOST: usize = 48;

/// One account on a platform.
#[derive(Clone, Debug)]
pub struct Account {
    /// The platform.
    pub platform: &'static Descriptor,
    /// Its name; empty for the one that the environment gives.
    pub instance: String,
    /// It is not to be connected.
    pub is_disabled: bool,
    values: BTreeMap<&'static str, Secret>,
}

impl Account {
    /// What it was told under this name.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(Secret::expose)
    }
}

#[cfg(test)]
impl Account {
    /// An account with these settings.
    pub fn of(platform: &str, instance: &str, values: &[(&'static str, &str)]) -> Self {
        Self {
            platform: descriptor::find(platform).unwrap(),
            instance: instance.into(),
            is_disabled: false,
            values: values.iter().map(|(key, value)| (*key, Secret::new((*value).into()))).collect(),
        }
    }
}

/// Why the accounts cannot be used. Never shows a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

/// The accounts of a file, if it is there, and of the environment.
///
/// # Errors
/// The first thing that is wrong, with where it stands.
pub fn load(
    file: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Account>, SettingsError> {
    let mut accounts = match private(file).map_err(SettingsError)? {
        None => Vec::new(),
        Some(text) => {
            read(&text, environment).map_err(|wrong| SettingsError(format!("{}: {wrong}", file.display())))?
        }
    };
    for platform in descriptor::ALL {
        let Some(account) = from_environment(platform, environment).map_err(SettingsError)? else { continue };
        if accounts.iter().any(|known| same(known, platform, "")) {
            let (name, path) = (platform.platform, file.display());
            return Err(SettingsError(format!(
                "the environment and {path} both have the account of {name} without a name; give it an instance there"
            )));
        }
        accounts.push(account);
    }
    if accounts.len() > MOST {
        return Err(SettingsError(format!("there are {} accounts, and {MOST} are the most", accounts.len())));
    }
    Ok(accounts)
}

fn same(account: &Account, platform: &Descriptor, instance: &str) -> bool {
    account.platform.platform == platform.platform && account.instance == instance
}

fn from_environment(
    platform: &'static Descriptor,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Account>, String> {
    let mut values = BTreeMap::new();
    for key in platform.keys {
        let given = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let file = if key.is_secret { given(&format!("{}_FILE", key.variable)) } else { None };
        let value = match (given(key.variable), file) {
            (Some(_), Some(_)) => {
                return Err(format!("{0} and {0}_FILE are both set; unset one of them", key.variable));
            }
            (Some(value), None) => value,
            (None, Some(path)) => secret_of(Path::new(&path))?,
            (None, None) => continue,
        };
        values.insert(key.name, checked(key.variable, &value)?);
    }
    if values.is_empty() {
        return Ok(None);
    }
    if let Some(key) = platform.keys.iter().find(|key| key.is_required && !values.contains_key(key.name)) {
        return Err(format!("{} needs {} too, which is not set", platform.title, key.variable));
    }
    Ok(Some(Account { platform, instance: String::new(), is_disabled: false, values }))
}

fn checked(name: &str, value: &str) -> Result<Secret, String> {
    let value = value.trim();
    if value.is_empty() || value.len() > VALUE_BYTES || value.chars().any(char::is_control) {
        return Err(format!("{name} must have 1 to {VALUE_BYTES} bytes and no control characters"));
    }
    Ok(Secret::new(value.to_owned()))
}

fn secret_of(path: &Path) -> Result<String, String> {
    let text = private(path)?.ok_or_else(|| format!("{} is not there", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A file that nobody else may read.
fn private(path: &Path) -> Result<Option<String>, String> {
    let found =
        state::read_private(path, FILE_BYTES, Readers::OwnerOnly).map_err(|error| error.to_string())?;
    let text = found.map(String::from_utf8).transpose();
    text.map_err(|_| format!("{} is no text", path.display()))
}

/// The accounts of a file's text.
fn read(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Account>, String> {
    let root = toml_span::parse(text).map_err(|error| {
        let line = text.get(..error.span.start).unwrap_or_default().matches('\n').count() + 1;
        // Not the error's own words where they could repeat a value.
        format!("line {line} is no TOML ({})", error.kind)
    })?;
    let table = root.as_table().ok_or("expected [[channel]] tables")?;
    let mut accounts: Vec<Account> = Vec::new();
    for (name, value) in table {
        if name.name != "channel" {
            return Err(format!("{} is unknown; expected [[channel]] tables", plain::line(&name.name)));
        }
        let items = value.as_array().ok_or("channel must be written [[channel]], once for each account")?;
        for (number, item) in (1..).zip(items) {
            let account =
                account(item, environment).map_err(|wrong| format!("[[channel]] {number}: {wrong}"))?;
            if accounts.iter().any(|known| same(known, account.platform, &account.instance)) {
                return Err(format!(
                    "[[channel]] {number}: there are two accounts of that type and instance"
                ));
            }
            accounts.push(account);
        }
    }
    Ok(accounts)
}

fn account(
    item: &toml_span::Value<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Account, String> {
    let table = item.as_table().ok_or("expected a table")?;
    let types = || descriptor::ALL.iter().map(|known| known.platform).collect::<Vec<_>>().join(", ");
    let named = item.pointer("/type").and_then(|value| value.as_str());
    let named = named.ok_or_else(|| format!("type is missing; expected one of: {}", types()))?;
    let platform = descriptor::find(named)
        .ok_or_else(|| format!("type {} is none of this build: {}", plain::word(named), types()))?;
    let mut account =
        Account { platform, instance: String::new(), is_disabled: false, values: BTreeMap::new() };
    for (name, value) in table {
        let name: &str = &name.name;
        let text = || value.as_str().ok_or_else(|| format!("{} must be a text", plain::line(name)));
        match name {
            "type" => {}
            "instance" => {
                account.instance = text()?.to_owned();
                if !descriptor::is_instance(&account.instance) {
                    return Err("instance must be at most 63 of a-z 0-9 -".to_owned());
                }
            }
            "disabled" => {
                account.is_disabled = value.as_bool().ok_or("disabled must be true or false")?;
            }
            _ => {
                let key = platform.keys.iter().find(|key| key.name == name).ok_or_else(|| {
                    let keys: Vec<&str> = platform.keys.iter().map(|key| key.name).collect();
                    format!("{} is unknown; {named} has: {}", plain::line(name), keys.join(", "))
                })?;
                let said = text()?;
                let value = match said.strip_prefix("file:") {
                    Some(path) => secret_of(&absolute(path)?)?,
                    None => match said.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
                        Some(variable) => environment(variable)
                            .ok_or_else(|| format!("{name} names a variable that is not set"))?,
                        None => said.to_owned(),
                    },
                };
                account.values.insert(key.name, checked(name, &value)?);
            }
        }
    }
    let missing = platform.keys.iter().find(|key| key.is_required && !account.values.contains_key(key.name));
    match missing {
        Some(key) => Err(format!("{} is missing: {}", key.name, key.help)),
        None => Ok(account),
    }
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err("file: wants an absolute path".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    const GOOD: &str = "# ours\n[[channel]]\ntype = \"webhook\"\ninstance = \"ops\"\nsecret = \"aaaaaaaaaaaaaaaaaaaaaaaa\"\n";

    #[test]
    fn a_file_gives_accounts() {
        let two = format!(
            "{GOOD}[[channel]]\ntype=\"webhook\"\ninstance=\"b\"\nsecret=\"${{HOOK}}\"\ndisabled=true\n"
        );
        let all =
            read(&two, &|name| (name == "HOOK").then(|| "from the environment, long".to_owned())).unwrap();
        let told: Vec<_> = all.iter().map(|one| (one.instance.as_str(), one.is_disabled)).collect();
        assert_eq!(told, [("ops", false), ("b", true)]);
        assert_eq!(all[1].value("secret"), Some("from the environment, long"));
        assert_eq!(all[0].value("url"), None);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        for (text, wrong) in [
            ("[[channel]\n", "line 1"),
            ("x = 1", "x is unknown"),
            ("[channel]\ntype=\"webhook\"", "[[channel]]"),
            ("[[channel]]\ninstance=\"a\"", "type is missing"),
            ("[[channel]]\ntype=\"pigeon\"", "none of this build"),
            ("[[channel]]\ntype=\"webhook\"", "secret is missing"),
            ("[[channel]]\ntype=\"webhook\"\nsecret=1", "secret must be a text"),
            ("[[channel]]\ntype=\"webhook\"\nsecret=\"\"", "secret must have"),
            ("[[channel]]\ntype=\"webhook\"\nsecret=\"${NOT_SET}\"", "not set"),
            ("[[channel]]\ntype=\"webhook\"\nsecret=\"file:x\"", "absolute"),
            (
                "[[channel]]\ntype=\"webhook\"\ninstance=\"A B\"\nsecret=\"hunter2hunter2hunter2h\"",
                "instance",
            ),
            ("[[channel]]\ntype=\"webhook\"\ntoken=\"hunter2\"", "token is unknown"),
            (&format!("{GOOD}{GOOD}"), "two accounts"),
        ] {
            let told = read(text, &none).unwrap_err();
            assert!(told.contains(wrong) && !told.contains("hunter2"), "{text}: {told}");
        }
    }

    #[test]
    fn the_environment_gives_the_account_without_a_name() {
        let path = Path::new("/nonexistent/channels.toml");
        assert!(load(path, &none).unwrap().is_empty());
        let set = |name: &str| (name == "IRONCLAW_WEBHOOK_SECRET").then(|| "s".repeat(30));
        let all = load(path, &set).unwrap();
        assert_eq!((all.len(), all[0].instance.as_str()), (1, ""));
        let only = |name: &str| (name == "IRONCLAW_WEBHOOK_URL").then(|| "https://x.example".to_owned());
        assert!(load(path, &only).unwrap_err().to_string().contains("IRONCLAW_WEBHOOK_SECRET"));
        let both = |name: &str| name.starts_with("IRONCLAW_WEBHOOK_SECRET").then(|| "s".repeat(30));
        assert!(load(path, &both).unwrap_err().to_string().contains("both set"));
    }
}
