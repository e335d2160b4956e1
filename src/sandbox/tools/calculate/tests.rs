//! What expressions come to, and that every text has an answer.

use super::*;

fn told(expression: &str) -> String {
    value(expression).map(shown).unwrap()
}

#[test]
fn expressions_have_their_values() {
    for (expression, expected) in [
        ("1+2*3", "7"),
        ("(1+2)*3", "9"),
        ("10-4-3", "3"),
        ("100/10/5", "2"),
        ("2^3^2", "512"),
        ("2**10", "1024"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("2^-2", "0.25"),
        ("--3", "3"),
        ("3 - -3", "6"),
        ("+4", "4"),
        ("7%4", "3"),
        ("-7%4", "-3"),
        ("7 % -4", "3"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333333"),
        ("2/3*3", "2"),
        (".5 + 5.", "5.5"),
        ("1e3+1E-3", "1000.001"),
        ("6.02e+23", "about 6.02e23"),
        ("2^53", "9007199254740992"),
        ("2^64", "about 1.84467440737096e19"),
        ("1e-9", "1e-9"),
        ("0.000001", "0.000001"),
        ("-0", "0"),
        ("0*-1", "0"),
        ("sqrt(2)^2", "2"),
        ("PI", "3.14159265358979"),
        ("tau - 2*pi", "0"),
        ("ln(e)", "1"),
        ("log10(1000) + log2(8)", "6"),
        ("round(2.5) + floor(-1.5) + ceil(1.2) + trunc(-1.9)", "2"),
        ("cbrt(27) + abs(-3)", "6"),
        ("cos(0) + sin(0) + atan(0)", "1"),
        ("min(3, 1, 2) + max(3,(4),-5)", "5"),
        ("min(7)", "7"),
        ("\t1 +\n2 ", "3"),
    ] {
        assert_eq!(told(expression), expected, "{expression}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (expression, why) in [
        ("", "ends where a number is to come (character 1)"),
        ("  ", "ends where"),
        ("1+", "ends where a number is to come (character 3)"),
        ("1/0", "divides by zero"),
        ("1%0", "divides by zero"),
        ("0^-1", "divides by zero"),
        ("15% + 1", "for a part of a hundred"),
        ("15%", "for a part of a hundred"),
        ("1,000", "write 1000, not 1,000 (character 2)"),
        ("(1", "a ) is missing"),
        ("1)", "no ( for this )"),
        ("2 pi", "an operator is missing here (character 3)"),
        ("2(3)", "an operator is missing"),
        ("1e", "an operator is missing"),
        ("1.2.3", "an operator is missing"),
        (".", "a number is to come"),
        ("é+1", "a number is to come here (character 1)"),
        ("1+é", "a number is to come here (character 3)"),
        ("1é", "an operator is missing"),
        ("\u{2003}é", "a number is to come here (character 2)"),
        ("2 * *3", "a number is to come here (character 5)"),
        ("sqrt 2", "a ( is missing"),
        ("sqrt(1,2)", "a ) is missing"),
        ("min()", "a number is to come"),
        ("sqrt(-1)", "no real value"),
        ("(-8)^(1/3)", "no real value"),
        ("asin(2)", "no real value"),
        ("ln(0)", "zero has no logarithm"),
        ("log(10)", "ln, log10 or log2 (character 1)"),
        ("system(1)", "no function or number of this name (character 1)"),
        ("inf", "no function or number"),
        ("nan", "no function or number"),
        ("1e999", "larger than 1.8e308"),
        ("1e308*10", "larger than 1.8e308"),
        ("10^400 - 10^400", "larger than 1.8e308"),
        ("exp(1000)", "larger than 1.8e308"),
    ] {
        let refused = value(expression).unwrap_err();
        assert!(refused.contains(why), "{expression}: {refused}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    assert_eq!(told(&format!("{}1", "1+".repeat(499))), "500");
    let long = format!("{}1", "1+".repeat(500));
    assert!(value(&long).unwrap_err().contains("longer than 1000 bytes"));
    let within = |open: &str, deep: usize, close: &str| {
        value(&format!("{}1{}", open.repeat(deep), close.repeat(deep)))
    };
    for (open, close) in [("(", ")"), ("-", ""), ("1^", ""), ("abs(", ")"), ("min(", ")")] {
        assert!(within(open, MOST_DEPTH, close).is_ok(), "{open}");
        assert!(within(open, MOST_DEPTH + 1, close).unwrap_err().contains("too deep"), "{open}");
    }
    assert!(value(&"(".repeat(MOST_BYTES)).is_err());
    assert!(value(&format!("{}1", "(1)+".repeat(240))).is_ok(), "depth is given back");
}

/// Numbers without a pattern, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[test]
fn every_text_has_an_answer() {
    const PIECES: &[&str] = &[
        "1", "0", "9", ".", "e", "E", "+", "-", "*", "/", "%", "^", "**", "(", ")", ",", " ", "pi", "sqrt(",
        "min(", "ln", "x", "é", "\u{2003}", "\0", "1e308", "1e-320", "⟦",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..50_000 {
        let many = random.below(24);
        let expression: String = (0..many).map(|_| PIECES[random.below(PIECES.len())]).collect();
        match value(&expression) {
            Ok(value) => {
                assert!(value.is_finite(), "{expression:?}");
                assert!(shown(value).len() <= 40, "{expression:?}: {}", shown(value));
            }
            Err(why) => assert!(why.contains("(character "), "{expression:?}: {why}"),
        }
    }
}

/// An expression without needless parentheses, how tightly it binds, and what it comes to.
fn made(random: &mut Random, depth: usize) -> (String, u8, f64) {
    if depth == 0 || random.below(4) == 0 {
        let number = random.below(1000);
        return (number.to_string(), 4, number as f64);
    }
    let (left, binds, a) = made(random, depth - 1);
    let (right, other, b) = made(random, depth - 1);
    let paren = |text: String, is_needed: bool| if is_needed { format!("({text})") } else { text };
    match random.below(5) {
        0 => (format!("{left}+{}", paren(right, other < 2)), 1, a + b),
        1 => (format!("{left} - {}", paren(right, other < 2)), 1, a - b),
        2 => (format!("{}*{}", paren(left, binds < 2), paren(right, other < 3)), 2, a * b),
        3 if b != 0.0 => (format!("{}/{}", paren(left, binds < 2), paren(right, other < 3)), 2, a / b),
        _ => (format!("-{}", paren(left, binds < 3)), 3, -a),
    }
}

#[test]
fn operators_bind_as_people_write_them() {
    let mut random = Random(42);
    for _ in 0..5_000 {
        let (expression, _, expected) = made(&mut random, 4);
        if expression.len() <= MOST_BYTES {
            assert_eq!(value(&expression), Ok(expected), "{expression}");
        }
    }
}
