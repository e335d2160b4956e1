//! `ctl completions`: a script that completes commands and options in a shell, made from the very tables that the words
//! are read with, so that it has what this program has. Needs no control plane; touches the terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, FromArgs};

use super::{Failure, GLOBALS, Words};

/// A script that completes commands and options. For bash: source <(ironctl completions bash)
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "completions")]
pub(super) struct Completions {
    /// bash, zsh or fish
    #[argh(positional)]
    shell: String,
}

/// A command with what may follow it.
struct Place {
    /// The words that lead to it, with spaces between; empty for the program itself.
    at: String,
    /// What may follow: word and description.
    next: Vec<(String, String)>,
    /// Whether anything else may.
    takes_words: bool,
}

/// `ctl completions`
pub(super) fn run(words: &Completions) -> Result<(), Failure> {
    let made = Tables::read();
    let script = match words.shell.as_str() {
        "bash" => made.bash(),
        "zsh" => made.zsh(),
        "fish" => made.fish(),
        _ => return Err(Failure::usage("expected one of: bash, zsh, fish")),
    };
    Ok(io::stdout().write_all(script.as_bytes())?)
}

/// Every option with a value, of every command: what may be written `--option=value`.
pub(super) fn valued() -> Vec<String> {
    Tables::read().valued
}

/// The command that these words lead to, as far as they name one.
pub(super) fn command_of<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut info = Words::get_args_info();
    let mut found = Vec::new();
    for word in words {
        let Some(at) = info.commands.iter().position(|below| below.name == *word) else { break };
        info = info.commands.swap_remove(at).command;
        found.push(*word);
    }
    found
}

struct Tables {
    places: Vec<Place>,
    valued: Vec<String>,
}

impl Tables {
    fn read() -> Self {
        let mut tables = Self { places: Vec::new(), valued: Vec::new() };
        for (name, _) in GLOBALS {
            tables.valued.push((*name).to_owned());
        }
        tables.add(String::new(), &Words::get_args_info());
        tables.valued.sort();
        tables.valued.dedup();
        tables
    }

    fn add(&mut self, at: String, command: &CommandInfoWithArgs) {
        let mut next = Vec::new();
        for below in &command.commands {
            next.push((below.name.to_owned(), first_sentence(below.command.description)));
        }
        for flag in command.flags.iter().filter(|flag| !flag.hidden) {
            if matches!(flag.kind, FlagInfoKind::Option { .. }) {
                self.valued.push(flag.long.to_owned());
            }
            next.push((flag.long.to_owned(), first_sentence(flag.description)));
        }
        next.extend(GLOBALS.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())));
        let takes_words = !command.positionals.is_empty();
        self.places.push(Place { at: at.clone(), next, takes_words });
        for below in &command.commands {
            let at = format!("{at} {}", below.name);
            self.add(at.trim_start().to_owned(), &below.command);
        }
    }

    /// The commands as patterns of a `case`.
    fn patterns(&self) -> String {
        let all: Vec<String> =
            self.places.iter().filter(|place| !place.at.is_empty()).map(|place| quoted(&place.at)).collect();
        all.join("|")
    }

    fn bash(&self) -> String {
        let mut script = String::from("# bash completion of ironctl and `ironclaw ctl`\n_ironctl() {\n");
        script.push_str("    local at= skip= word i=1 cur=${COMP_WORDS[COMP_CWORD]}\n");
        script.push_str("    COMPREPLY=()\n");
        script.push_str("    if [[ ${COMP_WORDS[0]##*/} != ironctl ]]; then\n");
        script.push_str("        [[ $COMP_CWORD -gt 1 && ${COMP_WORDS[1]} == ctl ]] || return\n");
        script.push_str("        i=2\n    fi\n");
        script.push_str("    for (( ; i < COMP_CWORD; i++ )); do\n        word=${COMP_WORDS[i]}\n");
        // `=` is a word of its own in bash: the value comes after it.
        script.push_str("        if [[ $word == = ]]; then continue; fi\n");
        script.push_str("        if [[ -n $skip ]]; then skip=; continue; fi\n");
        let _ = writeln!(script, "        case $word in\n            {}) skip=1 ;;", self.valued.join("|"));
        let _ = writeln!(
            script,
            "            -*) ;;\n            *) case ${{at:+$at }}$word in\n                {}) at=${{at:+$at }}$word ;;\n            esac ;;\n        esac\n    done",
            self.patterns()
        );
        script.push_str("    if [[ $cur == = ]]; then cur=; fi\n");
        script.push_str("    if [[ -n $skip ]]; then COMPREPLY=($(compgen -f -- \"$cur\")); return; fi\n");
        script.push_str("    case $at in\n");
        for place in &self.places {
            let words: Vec<&str> = place.next.iter().map(|(word, _)| word.as_str()).collect();
            let words = words.join(" ");
            let _ = writeln!(
                script,
                "        {}) COMPREPLY=($(compgen -W '{words}' -- \"$cur\")) ;;",
                quoted(&place.at)
            );
        }
        script.push_str("    esac\n}\ncomplete -F _ironctl ironctl ironclaw\n");
        script
    }

    fn zsh(&self) -> String {
        let mut script = String::from("#compdef ironctl\n_ironctl() {\n    local at= skip= word\n");
        script.push_str("    for word in \"${(@)words[2,CURRENT-1]}\"; do\n");
        script.push_str("        if [[ -n $skip ]]; then skip=; continue; fi\n");
        let _ = writeln!(script, "        case $word in\n            ({}) skip=1 ;;", self.valued.join("|"));
        let _ = writeln!(
            script,
            "            (-*) ;;\n            (*) case \"${{at:+$at }}$word\" in\n                ({}) at=\"${{at:+$at }}$word\" ;;\n            esac ;;\n        esac\n    done",
            self.patterns()
        );
        script.push_str(
            "    if [[ -n $skip ]]; then _files; return; fi\n    local -a found\n    case $at in\n",
        );
        for place in &self.places {
            let words: Vec<String> = place
                .next
                .iter()
                .map(|(word, what)| quoted(&format!("{}:{what}", word.replace(':', "\\:"))))
                .collect();
            let _ = writeln!(script, "        ({}) found=({}) ;;", quoted(&place.at), words.join(" "));
        }
        // Sourced, it says what it is for; found in `fpath` as `_ironctl`, its first call is a completion already.
        script.push_str(
            "    esac\n    _describe ironctl found\n}\nif [[ ${funcstack[1]-} == _ironctl ]]; then\n",
        );
        script.push_str("    _ironctl \"$@\"\nelse\n    compdef _ironctl ironctl\nfi\n");
        script
    }

    fn fish(&self) -> String {
        let mut script = String::from("# fish completion of ironctl\nfunction __ironctl_at\n");
        script.push_str("    set -l at ''\n    set -l skip ''\n    set -l words (commandline -opc)\n");
        script.push_str("    for word in $words[2..-1]\n");
        script.push_str("        if test -n \"$skip\"; set skip ''; continue; end\n        switch $word\n");
        let _ = writeln!(script, "            case {}\n                set skip 1", self.valued.join(" "));
        script.push_str("            case '-*'\n            case '*'\n");
        script.push_str("                switch (string trim -- \"$at $word\")\n");
        let patterns: Vec<String> =
            self.places.iter().filter(|place| !place.at.is_empty()).map(|place| quoted(&place.at)).collect();
        let _ = writeln!(
            script,
            "                    case {}\n                        set at (string trim -- \"$at $word\")\n                end\n        end\n    end\n    echo $at\nend",
            patterns.join(" ")
        );
        for place in &self.places {
            // Files only where something is taken that is no command.
            let files = if place.takes_words { "" } else { " -f" };
            for (word, what) in &place.next {
                let condition = quoted(&format!("test (__ironctl_at) = \"{}\"", place.at));
                let what = quoted(what);
                let _ = match word.strip_prefix("--") {
                    Some(option) if self.valued.contains(word) => {
                        writeln!(script, "complete -c ironctl -n {condition} -l {option} -r -d {what}")
                    }
                    Some(option) => {
                        writeln!(script, "complete -c ironctl -n {condition} -l {option} -d {what}")
                    }
                    None => writeln!(script, "complete -c ironctl{files} -n {condition} -a {word} -d {what}"),
                };
            }
        }
        script
    }
}

/// For all three shells, a text between single quotes. The texts are ours and hold no quote that matters.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "’"))
}

/// What a list has room for.
fn first_sentence(text: &str) -> String {
    let text = text.split_once(". ").map_or(text, |(first, _)| first);
    text.trim_end_matches('.').replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of commands and options as the source of this room has them, found without the tables.
    fn written() -> Vec<String> {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ironctl");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if let Some(name) = line.strip_prefix("#[argh(subcommand, name = \"") {
                    found.push(name.trim_end_matches("\")]").to_owned());
                } else if line.starts_with("#[argh(option") || line.starts_with("#[argh(switch") {
                    let field = lines.next().unwrap().trim_start_matches("pub(super) ");
                    found.push(format!("--{}", field.split(':').next().unwrap().replace('_', "-")));
                }
            }
        }
        found
    }

    #[test]
    fn every_command_and_option_is_in_every_script() {
        let tables = Tables::read();
        let all = written();
        assert!(all.len() > 80 && all.contains(&"completions".to_owned()), "{all:?}");
        let (bash, zsh, fish) = (tables.bash(), tables.zsh(), tables.fish());
        for word in &all {
            assert!(
                tables.places.iter().any(|place| place.next.iter().any(|(next, _)| next == word)),
                "{word}"
            );
            assert!(bash.contains(word) && zsh.contains(word), "{word}");
            assert!(fish.contains(word.trim_start_matches("--")), "{word}");
        }
        assert!(tables.valued.contains(&"--tls-fingerprint".to_owned()));
        assert!(
            tables.valued.contains(&"--kind".to_owned()) && !tables.valued.contains(&"--json".to_owned())
        );
    }

    #[test]
    fn every_command_that_only_reads_prints_json() {
        let reads = [
            "list",
            "show",
            "pending",
            "history",
            "templates",
            "verify",
            "whoami",
            "tools",
            "audit",
            "status",
            "metrics",
            "doctor",
            "events",
        ];
        let mut seen = 0;
        for place in Tables::read().places {
            let is_leaf = place.next.iter().all(|(word, _)| word.starts_with("--")) || place.at == "audit";
            if is_leaf && reads.contains(&place.at.rsplit(' ').next().unwrap_or_default()) {
                assert!(place.next.iter().any(|(word, _)| word == "--json"), "{} has no --json", place.at);
                seen += 1;
            }
        }
        assert!(seen > 18, "{seen}");
    }
}
