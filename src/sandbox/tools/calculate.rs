//! The tool that reckons: an expression comes in as text and its value goes out. The text is bounded, and so is how
//! deep it goes, so that every text has an answer at once. Pure.

use super::{Bench, Repeat, Task, Tool, ToolError, text, texts};
use crate::contract::json::Value;

/// Longest expression, in bytes.
const MOST_BYTES: usize = 1000;
/// Most parentheses, signs and powers within each other.
const MOST_DEPTH: usize = 64;
/// The digits that a value is told with: what 64 bits hold of every decimal.
const DIGITS: usize = 15;
/// Up to here every whole number is exact: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reckons.
pub(super) const CALCULATE: Tool = Tool {
    name: "calculate",
    description: "Reckon an expression: + - * / % (remainder) ^ (power), parentheses, pi, tau, e, and sqrt, cbrt, abs, \
        round, floor, ceil, trunc, exp, ln, log10, log2, sin, cos, tan, asin, acos, atan (radians), min, max. The value \
        has 15 digits; whole numbers are exact up to 2^53.",
    group: super::REASONING,
    schema: || texts(&[("expression", "Such as (3 + 4.5) * 2^10 / sqrt(2); 1000 bytes at most")]),
    repeat: Repeat::ReadOnly,
    task: Task::Here(calculate),
};

fn calculate(_bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    value(text(input, "expression")?).map(shown).map_err(ToolError)
}

/// The value of an expression; it is finite.
fn value(expression: &str) -> Result<f64, String> {
    if expression.len() > MOST_BYTES {
        return Err(format!("the expression is longer than {MOST_BYTES} bytes; reckon its parts"));
    }
    let mut reader = Reader { text: expression, at: 0, depth: 0 };
    let value = reader.sum()?;
    match reader.peek() {
        None => Ok(value),
        Some(',') => Err(reader.wrong("a comma only parts what a function is given; write 1000, not 1,000")),
        Some(')') => Err(reader.wrong("there is no ( for this )")),
        Some(_) => Err(reader.wrong("an operator is missing here")),
    }
}

/// A value in words: without the noise of the last binary digits.
fn shown(value: f64) -> String {
    let size = value.abs();
    let rounded = format!("{value:.*e}", DIGITS - 1);
    if value == 0.0 {
        "0".to_owned()
    } else if size <= EXACT && value.fract() == 0.0 {
        format!("{value}")
    } else if (1e-6..=EXACT).contains(&size) {
        // Shortest text of the rounded value, without an exponent.
        rounded.parse::<f64>().map_or(rounded, |value| value.to_string())
    } else {
        let short = rounded.parse::<f64>().map_or(rounded, |value| format!("{value:e}"));
        if size > EXACT { format!("about {short}") } else { short }
    }
}

/// Reads an expression from left to right and reckons as it goes.
#[derive(Debug)]
struct Reader<'a> {
    text: &'a str,
    /// Always between two characters.
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next character that is not a space.
    fn peek(&mut self) -> Option<char> {
        let blank = self.rest().len() - self.rest().trim_start().len();
        self.at += blank;
        self.rest().chars().next()
    }

    fn take(&mut self, sign: &str) -> bool {
        self.peek();
        let is_there = self.rest().starts_with(sign);
        if is_there {
            self.at += sign.len();
        }
        is_there
    }

    fn wrong(&self, why: &str) -> String {
        let place = self.text.get(..self.at).map_or(0, |before| before.chars().count()) + 1;
        format!("{why} (character {place})")
    }

    fn finite(&self, value: f64) -> Result<f64, String> {
        if value.is_nan() {
            Err(self.wrong("what stands before this place has no real value"))
        } else if value.is_infinite() {
            Err(self.wrong("what stands before this place is larger than 1.8e308"))
        } else {
            Ok(value)
        }
    }

    /// Reads one level deeper.
    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Result<f64, String>) -> Result<f64, String> {
        if self.depth == MOST_DEPTH {
            return Err(self.wrong("the expression is too deep; reckon its parts"));
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        loop {
            value = if self.take("+") {
                value + self.product()?
            } else if self.take("-") {
                value - self.product()?
            } else {
                return Ok(value);
            };
            value = self.finite(value)?;
        }
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.signed()?;
        loop {
            value = if self.take("*") {
                value * self.signed()?
            } else if self.take("/") {
                value / self.divisor()?
            } else if self.take("%") {
                if matches!(self.peek(), None | Some(')' | '+' | '*' | '/' | ',')) {
                    return Err(self.wrong("% is the remainder; for a part of a hundred write / 100"));
                }
                value % self.divisor()?
            } else {
                return Ok(value);
            };
            value = self.finite(value)?;
        }
    }

    fn divisor(&mut self) -> Result<f64, String> {
        match self.signed()? {
            0.0 => Err(self.wrong("that divides by zero")),
            value => Ok(value),
        }
    }

    /// A sign binds less than a power: -2^2 is -4.
    fn signed(&mut self) -> Result<f64, String> {
        if self.take("-") {
            self.deeper(Self::signed).map(|value| -value)
        } else if self.take("+") {
            self.deeper(Self::signed)
        } else {
            self.power()
        }
    }

    /// From the right: 2^3^2 is 2^9. Many write ** for it.
    fn power(&mut self) -> Result<f64, String> {
        let base = self.atom()?;
        if !(self.take("^") || self.take("**")) {
            return Ok(base);
        }
        let exponent = self.deeper(Self::signed)?;
        if base == 0.0 && exponent < 0.0 {
            return Err(self.wrong("that divides by zero"));
        }
        self.finite(base.powf(exponent))
    }

    fn atom(&mut self) -> Result<f64, String> {
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let value = self.deeper(Self::sum)?;
                self.close()?;
                Ok(value)
            }
            Some('0'..='9' | '.') => self.number(),
            Some('a'..='z' | 'A'..='Z') => self.named(),
            None => Err(self.wrong("the expression ends where a number is to come")),
            Some(_) => Err(self.wrong("a number is to come here")),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        if self.take(")") { Ok(()) } else { Err(self.wrong("a ) is missing here")) }
    }

    fn number(&mut self) -> Result<f64, String> {
        let rest = self.rest();
        let digits = |from: usize| {
            let after = rest.get(from..).unwrap_or_default();
            after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len()
        };
        let mut end = digits(0);
        if rest.get(end..).is_some_and(|after| after.starts_with('.')) {
            end += 1 + digits(end + 1);
        }
        let after = rest.get(end..).unwrap_or_default();
        if after.starts_with(['e', 'E']) {
            let sign = usize::from(after.get(1..).is_some_and(|after| after.starts_with(['+', '-'])));
            let many = digits(end + 1 + sign);
            if many > 0 {
                end += 1 + sign + many;
            }
        }
        let number = rest.get(..end).and_then(|number| number.parse::<f64>().ok());
        let number = number.ok_or_else(|| self.wrong("a number is to come here"))?;
        self.at += end;
        self.finite(number)
    }

    fn named(&mut self) -> Result<f64, String> {
        let begin = self.at;
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default().to_ascii_lowercase();
        self.at += end;
        let constant = match name.as_str() {
            "pi" => std::f64::consts::PI,
            "tau" => std::f64::consts::TAU,
            "e" => std::f64::consts::E,
            _ => return self.called(begin, &name),
        };
        Ok(constant)
    }

    fn called(&mut self, begin: usize, name: &str) -> Result<f64, String> {
        let one: fn(f64) -> f64 = match name {
            "min" => return self.least(f64::min),
            "max" => return self.least(f64::max),
            "sqrt" => f64::sqrt,
            "cbrt" => f64::cbrt,
            "abs" => f64::abs,
            "round" => f64::round,
            "floor" => f64::floor,
            "ceil" => f64::ceil,
            "trunc" => f64::trunc,
            "exp" => f64::exp,
            "ln" => f64::ln,
            "log10" => f64::log10,
            "log2" => f64::log2,
            "sin" => f64::sin,
            "cos" => f64::cos,
            "tan" => f64::tan,
            "asin" => f64::asin,
            "acos" => f64::acos,
            "atan" => f64::atan,
            _ => {
                self.at = begin;
                return Err(match name {
                    "log" => self.wrong("say which logarithm: ln, log10 or log2"),
                    _ => self.wrong("there is no function or number of this name"),
                });
            }
        };
        self.open()?;
        let given = self.deeper(Self::sum)?;
        self.close()?;
        if given == 0.0 && matches!(name, "ln" | "log10" | "log2") {
            return Err(self.wrong("zero has no logarithm"));
        }
        self.finite(one(given))
    }

    fn open(&mut self) -> Result<(), String> {
        if self.take("(") { Ok(()) } else { Err(self.wrong("a ( is missing after the name of a function")) }
    }

    /// What is left of one or more values when of each two one is chosen.
    fn least(&mut self, choose: fn(f64, f64) -> f64) -> Result<f64, String> {
        self.open()?;
        let mut value = self.deeper(Self::sum)?;
        while self.take(",") {
            value = choose(value, self.deeper(Self::sum)?);
        }
        self.close()?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
