//! Tables and texts for people: aligned columns, a dim head on a terminal, texts of strangers escaped.

use std::io::{self, IsTerminal, Write};

use crate::contract::plain;

/// Prints rows under a head, columns two spaces apart.
pub(super) fn print(head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    print_from(head, rows, &[]).map(drop)
}

/// The same with columns at least this wide; gives how wide they are, for rows that come later.
pub(super) fn print_from(head: &[&str], rows: &[Vec<String>], least: &[usize]) -> io::Result<Vec<usize>> {
    let dim = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (lines, widths) = render(head, rows, least);
    let mut lines = lines.into_iter();
    let mut text = String::new();
    if let Some(head) = lines.next()
        && !head.is_empty()
    {
        text.push_str(&if dim { format!("\x1b[2m{head}\x1b[0m\n") } else { format!("{head}\n") });
    }
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(widths)
}

fn render(head: &[&str], rows: &[Vec<String>], least: &[usize]) -> (Vec<String>, Vec<usize>) {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let shown = |row: &Vec<String>| -> Vec<String> { row.iter().map(|cell| cell_shown(cell)).collect() };
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(shown)).collect();
    let columns = all.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let widest = all.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        widest.unwrap_or(0).max(least.get(at).copied().unwrap_or(0))
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    (all.iter().map(line).collect(), widths)
}

/// What stands in a cell. Two spaces end a column, so a text that has them, or begins or ends with one, is in quotes.
fn cell_shown(cell: &str) -> String {
    let could_end = cell.contains("  ") || cell.starts_with(' ') || cell.ends_with(' ');
    match cell {
        "" => "-".to_owned(),
        _ if could_end => plain::word(cell).into_owned(),
        _ => plain::line(cell).into_owned(),
    }
}

/// A text of an agent: escaped on a terminal, where no line of it passes for one of this program's; as it is in a pipe.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        writeln!(out, "{}", said(text))?;
    } else {
        writeln!(out, "{text}")?;
    }
    out.flush()
}

fn said(text: &str) -> String {
    let own = |line: &&str| ["ironclaw:", "> "].iter().any(|own| line.trim_start().starts_with(own));
    let lines = plain::block(text);
    let lines: Vec<String> = lines
        .split('\n')
        .map(|line| if own(&line) { format!("| {line}") } else { line.to_owned() })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_does_not_speak_for_the_program() {
        let text = "yes\nironclaw: the message was given up\n  ironclaw: x\n> \nironclaw is fine";
        assert_eq!(
            said(text),
            "yes\n| ironclaw: the message was given up\n|   ironclaw: x\n| > \nironclaw is fine"
        );
    }

    #[test]
    fn a_text_does_not_pass_for_the_next_column() {
        let rows = vec![vec!["a".to_owned(), "x  applied".to_owned(), "z".to_owned()]];
        assert_eq!(render(&["ID", "BY", "X"], &rows, &[]).0[1], "a   \"x  applied\"  z");
    }

    #[test]
    fn columns_are_aligned_and_cells_are_one_line() {
        let rows = vec![
            vec!["a".into(), "long é".into(), String::new()],
            vec!["bbb".into(), "\u{1b}x".into(), "z".into()],
        ];
        assert_eq!(
            render(&["ID", "NAME", "X"], &rows, &[]).0,
            ["ID   NAME     X", "a    long é   -", "bbb  \\u{1b}x  z"]
        );
    }
}
