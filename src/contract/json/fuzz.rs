//! A seeded, mutating fuzz of the gate that runs on stable Rust as part of the suite. Every case comes from
//! one 64-bit number, which a failure prints; `IRONCLAW_FUZZ_SEED=N` replays that case alone, and
//! `IRONCLAW_FUZZ_SECONDS=N` sets how long it runs (10 by default). Properties: it never panics, a limit is
//! never exceeded, what is accepted prints to a document that reads back equal, and it accepts the same
//! documents as an independent decoder, which also gives the same values.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{Limits, Problem, Value, decode, parse, parse_within};

const SEEDS: &[&str] = &[
    r#"{"text":"hello","event_id":"e-1","chat":"main"}"#,
    r#"[1,-2,3.5,1e+5,-0.0E-7,18446744073709551616,0]"#,
    r#"{"a":{"b":{"c":[{},[],"",null,true,false]}}}"#,
    r#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00\u0000é漢😀""#,
    r#" { "type" : "message_delta" , "usage" : { "output_tokens" : 15 } } "#,
    r#"[[[[[[[[[[1]]]]]]]]]]"#,
    r#"{"0":0,"1":1,"2":2,"3":3,"4":4,"5":5,"6":6,"7":7,"8":8,"9":9}"#,
    "null",
];

/// Pieces that a mutation inserts: what the grammar turns on, and what other decoders stumble over.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud800",
    b"\\udc00",
    b"\\u0000",
    b"\\q",
    b"-",
    b"+",
    b".",
    b"e",
    b"E+",
    b"0",
    b"01",
    b"9999999999999999999999",
    b"1e400",
    b"true",
    b"null",
    b"nul",
    b"NaN",
    b" ",
    b"\n",
    b"\0",
    b"\x1f",
    b"\x7f",
    b"\xff",
    b"\xc3",
    b"\xa9",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"//",
    b"/**/",
    b"\"a\":",
    b"{\"a\":",
    b"[[[[[[[[",
    b"]]]]]]]]",
    b"\xe2\x80\xa8",
    b"\xf4\x90\x80\x80",
];

#[derive(nanoserde::DeJson)]
struct Plain {
    _text: Option<String>,
    _event_id: Option<String>,
    _a: Option<u64>,
    _b: Option<Vec<f64>>,
}

#[test]
fn the_gate_holds() {
    if let Some(seed) = number("IRONCLAW_FUZZ_SEED") {
        check(seed);
        return;
    }
    let seconds = number("IRONCLAW_FUZZ_SECONDS").unwrap_or(10);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut start = [0u8; 8];
    rustix::rand::getrandom(&mut start, rustix::rand::GetRandomFlags::empty()).unwrap();
    let mut seed = u64::from_le_bytes(start);
    let mut cases = 0u64;
    while Instant::now() < until {
        for _ in 0..256 {
            if catch_unwind(AssertUnwindSafe(|| check(seed))).is_err() {
                panic!("failed after {cases} cases; replay with IRONCLAW_FUZZ_SEED={seed}: {:?}", case(seed));
            }
            seed = seed.wrapping_add(1);
            cases += 1;
        }
    }
    println!("{cases} cases in {seconds} s");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

/// Checks every property on the case of one seed.
fn check(seed: u64) {
    let document = case(seed);
    let limits = Limits { bytes: 4096, depth: 8, values: 64 };
    if let Ok(value) = parse_within(&document, &limits) {
        let (depth, values) = measure(&value);
        assert!(document.len() <= 4096 && depth <= 8 && values <= 64, "a limit was exceeded");
    }
    let read = parse(&document);
    let _ = decode::<Plain>(&document);
    let oracle = serde_json::from_slice::<serde_json::Value>(&document);
    match (&read, &oracle) {
        (Ok(value), Ok(other)) => {
            assert_eq!(parse(value.to_string().as_bytes()).as_ref(), Ok(value), "printing changed it");
            assert!(same(value, other), "the oracle reads another value");
        }
        (Ok(_), Err(error)) => panic!("accepted what the oracle refuses: {error}"),
        (Err(error), Ok(_)) => {
            let ours =
                matches!(error.problem, Problem::DuplicateKey | Problem::TooDeep(_) | Problem::TooMany(_));
            assert!(ours, "refused what the oracle accepts: {error}");
        }
        (Err(error), Err(_)) => assert!(error.offset <= document.len()),
    }
}

fn measure(value: &Value) -> (usize, usize) {
    let children: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.iter().map(|(_, item)| item).collect(),
        _ => return (0, 1),
    };
    let below = children.into_iter().map(measure);
    below.fold((1, 1), |(deep, many), (d, m)| (deep.max(d + 1), many + m))
}

fn same(ours: &Value, other: &serde_json::Value) -> bool {
    use serde_json::Value as Other;
    match (ours, other) {
        (Value::Null, Other::Null) => true,
        (Value::Bool(a), Other::Bool(b)) => a == b,
        (Value::String(a), Other::String(b)) => a == b,
        // The oracle keeps a number's text but writes every exponent with a sign.
        (Value::Number(a), Other::Number(b)) => {
            let plain = |text: &str| text.to_lowercase().replace("e+", "e");
            plain(a) == plain(&b.to_string())
        }
        (Value::Array(a), Other::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Other::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => false,
    }
}

/// The document of a seed: a corpus entry or a grown value, then a few mutations.
fn case(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut document = match random.below(3) {
        0 => SEEDS[random.below(SEEDS.len())].as_bytes().to_vec(),
        _ => {
            let mut grown = Vec::new();
            grow(&mut random, &mut grown, 0);
            grown
        }
    };
    for _ in 0..random.below(5) {
        mutate(&mut random, &mut document);
    }
    document
}

/// Writes a random legal value, with random space, of modest size.
fn grow(random: &mut Random, out: &mut Vec<u8>, depth: usize) {
    let kinds = if depth < 6 { 9 } else { 7 };
    match random.below(kinds) {
        0 => out.extend(b"null"),
        1 => out.extend(b"true"),
        2 => out.extend(b"false"),
        3 | 4 => grow_number(random, out),
        5 | 6 => grow_string(random, out),
        7 => {
            out.push(b'[');
            for index in 0..random.below(6) {
                if index > 0 {
                    out.push(b',');
                }
                space(random, out);
                grow(random, out, depth + 1);
                space(random, out);
            }
            out.push(b']');
        }
        _ => {
            out.push(b'{');
            for index in 0..random.below(14) {
                if index > 0 {
                    out.push(b',');
                }
                space(random, out);
                grow_string(random, out);
                space(random, out);
                out.push(b':');
                space(random, out);
                grow(random, out, depth + 1);
            }
            out.push(b'}');
        }
    }
}

fn grow_number(random: &mut Random, out: &mut Vec<u8>) {
    if random.below(3) == 0 {
        out.push(b'-');
    }
    let digits = random.below(24);
    if digits == 0 {
        out.push(b'0');
    } else {
        out.push(b'1' + random.below(9) as u8);
        out.extend((1..digits).map(|_| b'0' + random.below(10) as u8));
    }
    if random.below(3) == 0 {
        out.push(b'.');
        out.extend((0..=random.below(6)).map(|_| b'0' + random.below(10) as u8));
    }
    if random.below(3) == 0 {
        out.extend([&b"e"[..], b"E", b"e+", b"e-"][random.below(4)]);
        out.extend((0..=random.below(4)).map(|_| b'0' + random.below(10) as u8));
    }
}

fn grow_string(random: &mut Random, out: &mut Vec<u8>) {
    out.push(b'"');
    for _ in 0..random.below(6) {
        match random.below(8) {
            0 => out.extend(
                [&br#"\""#[..], br"\\", br"\/", br"\b", br"\n", br"\u00e9", br"\ud83d\ude00"]
                    [random.below(7)],
            ),
            1 => out.extend("é漢😀\u{2028}".as_bytes()),
            _ => out.push(b'a' + random.below(26) as u8),
        }
    }
    out.push(b'"');
}

fn space(random: &mut Random, out: &mut Vec<u8>) {
    if random.below(8) == 0 {
        out.push(b" \t\r\n"[random.below(4)]);
    }
}

fn mutate(random: &mut Random, document: &mut Vec<u8>) {
    let at = random.below(document.len() + 1);
    match random.below(8) {
        0 => document.truncate(at),
        1 if at < document.len() => document[at] ^= 1 << random.below(8),
        2 if at < document.len() => document[at] = random.below(256) as u8,
        3 if at < document.len() => drop(document.remove(at)),
        4 => {
            let end = (at + 1 + random.below(12)).min(document.len());
            let copied = document[at..end].to_vec();
            let to = random.below(document.len() + 1);
            document.splice(to..to, copied);
        }
        5 => {
            let end = (at + random.below(12)).min(document.len());
            document.drain(at..end);
        }
        _ => drop(document.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
    }
}

/// SplitMix64: small, seedable, and good enough to choose mutations.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
