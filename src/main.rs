//! Chooses the role from the program's name or its first word, and nothing else.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
