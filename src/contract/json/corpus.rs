//! The documents that the gate must take and must refuse, by category: grammar, strings, numbers, structure,
//! encoding, limits, and every defect seen in the derive library behind it. Unit-test data only.

use super::{JsonError, Limits, Problem, Value, parse, parse_within};

const ACCEPTED: &[(&str, &[u8])] = &[
    ("a lone null", b"null"),
    ("a lone true", b"true"),
    ("a lone false", b"false"),
    ("a lone string", b"\"\""),
    ("a lone number", b"0"),
    ("space around", b" \t\r\n1 \t\r\n"),
    ("an empty array", b"[]"),
    ("an empty array with space", b"[ \n]"),
    ("an empty object", b"{}"),
    ("an empty object with space", b"{\t}"),
    ("space between everything", b" [ 1 , { \"a\" : [ ] } , null ] "),
    ("no space at all", b"[1,{\"a\":[]},null,\"x\",-1.5e3]"),
    ("an empty key", b"{\"\":0}"),
    ("keys that differ in case", b"{\"a\":1,\"A\":2}"),
    ("the same key in different objects", b"[{\"a\":1},{\"a\":{\"a\":2}}]"),
    ("a key with escapes", b"{\"\\u0061\\n\":0}"),
    ("every simple escape", b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
    ("an escaped NUL", b"\"\\u0000\""),
    ("hexadecimal in both cases", b"\"\\uabCD\\uAbcd\""),
    ("a surrogate pair", b"\"\\ud83d\\ude00\""),
    ("the last code point by a pair", b"\"\\udbff\\udfff\""),
    ("a noncharacter by escape", b"\"\\uffff\""),
    ("DEL unescaped", b"\"\x7f\""),
    ("line separators unescaped", b"\"\xe2\x80\xa8\xe2\x80\xa9\""),
    ("two, three and four bytes of UTF-8", b"\"\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80\""),
    ("the last code point", b"\"\xf4\x8f\xbf\xbf\""),
    ("the last before the surrogates", b"\"\xed\x9f\xbf\""),
    ("a byte order mark inside a string", b"\"\xef\xbb\xbf\""),
    ("comments inside a string", b"\"/* a */ // b\""),
    ("minus zero", b"-0"),
    ("minus zero with everything", b"-0.0e-0"),
    ("an exponent with plus", b"1e+5"),
    ("an exponent with minus", b"1E-5"),
    ("an exponent with zeros", b"1e005"),
    ("a fraction with zeros", b"0.000"),
    ("beyond u64", b"18446744073709551616"),
    ("beyond i64", b"-9223372036854775809"),
    ("beyond floating point", b"1e400"),
    ("forty digits", b"1234567890123456789012345678901234567890"),
    ("a huge exponent", b"1e99999999999999999999"),
];

const REFUSED: &[(&str, &[u8])] = &[
    // structure
    ("nothing", b""),
    ("only space", b" \n"),
    ("two values", b"1 2"),
    ("two objects", b"{} {}"),
    ("a trailing comma", b"1,"),
    ("a trailing bracket", b"[]]"),
    ("a trailing brace", b"{}}"),
    ("an open array", b"["),
    ("an open object", b"{"),
    ("an array open after a value", b"[1"),
    ("an array open after a comma", b"[1,"),
    ("an object open after a key", b"{\"a\""),
    ("an object open after a colon", b"{\"a\":"),
    ("an object open after a value", b"{\"a\":1"),
    ("an object open after a comma", b"{\"a\":1,"),
    ("a trailing comma in an array", b"[1,]"),
    ("a leading comma in an array", b"[,1]"),
    ("only a comma in an array", b"[,]"),
    ("two commas in an array", b"[1,,2]"),
    ("no comma in an array", b"[1 2]"),
    ("a colon in an array", b"[1:2]"),
    ("a trailing comma in an object", b"{\"a\":1,}"),
    ("a leading comma in an object", b"{,\"a\":1}"),
    ("two commas in an object", b"{\"a\":1,,\"b\":2}"),
    ("no comma in an object", b"{\"a\":1 \"b\":2}"),
    ("no colon", b"{\"a\" 1}"),
    ("two colons", b"{\"a\"::1}"),
    ("a comma for a colon", b"{\"a\",1}"),
    ("an equals sign for a colon", b"{\"a\"=1}"),
    ("a key without a value", b"{\"a\":}"),
    ("a key without a value, then more", b"{\"a\":,\"b\":1}"),
    ("an unquoted key", b"{a:1}"),
    ("a key in single quotes", b"{'a':1}"),
    ("a number as a key", b"{1:1}"),
    ("null as a key", b"{null:1}"),
    ("an array as a key", b"{[]:1}"),
    ("mismatched brackets", b"[1}"),
    ("mismatched braces", b"{\"a\":1]"),
    ("crossed brackets", b"[{]}"),
    // words
    ("capitals", b"True"),
    ("a word cut short", b"tru"),
    ("a word cut short in an array", b"[nul]"),
    ("a word too long", b"nulll"),
    ("an unknown word", b"undefined"),
    ("NaN", b"NaN"),
    ("Infinity", b"Infinity"),
    ("minus Infinity", b"-Infinity"),
    // numbers
    ("a leading zero", b"01"),
    ("a leading zero after minus", b"-01"),
    ("two zeros", b"00"),
    ("a plus sign", b"+1"),
    ("only a minus", b"-"),
    ("two minus signs", b"--1"),
    ("a minus inside", b"1-2"),
    ("no digit before the point", b".5"),
    ("no digit before the point after minus", b"-.5"),
    ("no digit after the point", b"1."),
    ("no digit between point and exponent", b"1.e5"),
    ("two points", b"1.2.3"),
    ("an empty exponent", b"1e"),
    ("an exponent of only a sign", b"1e+"),
    ("two exponents", b"1e5e5"),
    ("a fraction in the exponent", b"1e5.5"),
    ("hexadecimal", b"0x10"),
    ("an underscore", b"1_000"),
    ("a suffix", b"1f"),
    ("a space after minus", b"- 1"),
    ("full-width digits", b"\xef\xbc\x91"),
    // strings
    ("an open string", b"\"a"),
    ("an open string after a backslash", b"\"a\\"),
    ("an open string of one quote", b"\""),
    ("single quotes", b"'a'"),
    ("an unknown escape", b"\"\\q\""),
    ("an escaped digit", b"\"\\0\""),
    ("an escaped quote of the other kind", b"\"\\'\""),
    ("an escaped x", b"\"\\x41\""),
    ("an escaped newline", b"\"\\\n\""),
    ("an escaped character beyond ASCII", b"\"\\\xc3\xa9\""),
    ("a capital U", b"\"\\U0041\""),
    ("an escape of three digits", b"\"\\u041\""),
    ("an escape cut short", b"\"\\u00"),
    ("an escape with a bad digit", b"\"\\u00g0\""),
    ("an escape with a sign", b"\"\\u+041\""),
    ("an escape with a space", b"\"\\u 041\""),
    ("an escape with a digit beyond ASCII", b"\"\\u00\xc3\xa90\""),
    ("a raw newline", b"\"a\nb\""),
    ("a raw tab", b"\"a\tb\""),
    ("a raw NUL", b"\"a\0b\""),
    ("a raw escape", b"\"a\x1bb\""),
    ("a high surrogate alone", b"\"\\ud83d\""),
    ("a high surrogate and text", b"\"\\ud83dx\""),
    ("a high surrogate and another escape", b"\"\\ud83d\\n\""),
    ("two high surrogates", b"\"\\ud83d\\ud83d\""),
    ("a high surrogate and a plain code", b"\"\\ud83d\\u0041\""),
    ("a high surrogate and a cut escape", b"\"\\ud83d\\ude0"),
    ("a low surrogate alone", b"\"\\ude00\""),
    ("a pair in the wrong order", b"\"\\ude00\\ud83d\""),
    ("a lone surrogate in a key", b"{\"\\ud800\":1}"),
    // encoding
    ("a byte order mark", b"\xef\xbb\xbf1"),
    ("only a byte order mark", b"\xef\xbb\xbf"),
    ("UTF-16, little end first", b"[\x001\x00]\x00"),
    ("UTF-16 with a mark", b"\xff\xfe1\x00"),
    ("a lone continuation byte", b"\"\x80\""),
    ("a sequence cut short", b"\"\xe6\xbc\""),
    ("an overlong slash", b"\"\xc0\xaf\""),
    ("an overlong NUL", b"\"\xc0\x80\""),
    ("an encoded surrogate", b"\"\xed\xa0\x80\""),
    ("beyond the last code point", b"\"\xf4\x90\x80\x80\""),
    ("Latin-1", b"\"\xe9\""),
    ("bad UTF-8 after the value", b"1 \xff"),
    // what is not JSON but often taken for it
    ("a line comment", b"1 // x"),
    ("a block comment", b"/* x */ 1"),
    ("a comment inside", b"{\"a\":/* x */1}"),
    ("a hash comment", b"1 # x"),
    ("NUL after the value", b"1\0"),
    ("NUL before the value", b"\x001"),
    ("NUL between tokens", b"[1,\0 2]"),
    ("a form feed as space", b"\x0c1"),
    ("a vertical tab as space", b"\x0b1"),
    ("a non-breaking space", b"\xc2\xa01"),
    ("an ideographic space", b"\xe3\x80\x801"),
    ("a line separator as space", b"\xe2\x80\xa81"),
    ("a semicolon", b"1;"),
    ("parentheses", b"(1)"),
    ("several lines of JSON", b"{}\n{}"),
    // duplicate keys
    ("a duplicate key", b"{\"a\":1,\"a\":2}"),
    ("a duplicate key by escape", b"{\"a\":1,\"\\u0061\":2}"),
    ("a duplicate empty key", b"{\"\":1,\"\":2}"),
    ("a duplicate key far below", b"[{\"x\":{\"a\":1,\"b\":2,\"a\":3}}]"),
];

#[test]
fn accepted() {
    for (name, document) in ACCEPTED {
        assert!(parse(document).is_ok(), "refused {name}: {:?}", parse(document));
    }
}

#[test]
fn refused() {
    for (name, document) in REFUSED {
        let error = parse(document).expect_err(name);
        assert!(error.offset <= document.len(), "{name}");
        assert!(!error.to_string().is_empty(), "{name}");
    }
}

/// Every proper beginning of a document that ends with a bracket or quote is refused, and none hangs.
#[test]
fn every_cut_is_refused() {
    let document = br#"{"a":[1,2.5e-3,"x\u00e9\ud83d\ude00",{"b":null,"c":[true,false]}],"d":{"e":{}}}"#;
    assert!(parse(document).is_ok());
    for end in 0..document.len() {
        assert!(parse(&document[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn errors_say_where() {
    let at = |document: &[u8]| parse(document).map_err(|error| (error.offset, error.problem));
    assert_eq!(at(b"[1,x]"), Err((3, Problem::Unexpected("a value"))));
    assert_eq!(at(b"[1"), Err((2, Problem::Ends("a comma or the end of the array"))));
    assert_eq!(at(b"{\"a\" 1}"), Err((5, Problem::Unexpected("a colon"))));
    assert_eq!(at(b"nuxl"), Err((2, Problem::Unexpected("null"))));
    assert_eq!(at(b"01"), Err((1, Problem::BadNumber)));
    assert_eq!(at(b"\"\xff\""), Err((1, Problem::NotUtf8)));
    assert_eq!(at(b"\"a\\ud800\""), Err((2, Problem::LoneSurrogate)));
    assert_eq!(at(b"\"a\x01\""), Err((2, Problem::RawControl)));
    assert_eq!(at(b"{\"a\":1,\"b\":2, \"a\":3}"), Err((14, Problem::DuplicateKey)));
    assert_eq!(at(b"[] []"), Err((3, Problem::Trailing)));
    assert_eq!(at(b"\xef\xbb\xbf[]"), Err((0, Problem::ByteOrderMark)));
    let shown = parse(b"[1,x]").unwrap_err().to_string();
    assert_eq!(shown, "unexpected byte 3 in JSON, expected a value");
}

/// Each limit holds exactly: the last allowed document passes, one more is refused.
#[test]
fn limits_are_exact() {
    let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
    assert!(parse(nested(64).as_bytes()).is_ok());
    assert_eq!(problem(nested(65).as_bytes()), Problem::TooDeep(64));
    let objects =
        |levels: usize| [r#"{"a":"#.repeat(levels - 1), "{}".into(), "}".repeat(levels - 1)].concat();
    assert!(parse(objects(64).as_bytes()).is_ok());
    assert_eq!(problem(objects(65).as_bytes()), Problem::TooDeep(64));

    let list = |values: usize| ["[".into(), vec!["0"; values - 1].join(","), "]".into()].concat();
    assert!(parse(list(200_000).as_bytes()).is_ok());
    assert_eq!(problem(list(200_001).as_bytes()), Problem::TooMany(200_000));

    let text = |bytes: usize| ["\"".into(), "x".repeat(bytes - 2), "\"".into()].concat();
    assert!(parse(text(8 << 20).as_bytes()).is_ok());
    assert_eq!(problem(text((8 << 20) + 1).as_bytes()), Problem::TooLong(8 << 20));

    let small = Limits { bytes: 10, depth: 1, values: 3 };
    assert!(parse_within(b"[1,2]", &small).is_ok());
    assert!(parse_within(b"[1,2,3]", &small).is_err());
    assert!(parse_within(b"[[]]", &small).is_err());
    assert!(parse_within(b"[        1]", &small).is_err());
    assert!(parse_within(b"[]", &Limits { depth: 0, ..small }).is_err());
    assert!(parse_within(b"1", &Limits { depth: 0, ..small }).is_ok());
    let deepest = Limits { depth: usize::MAX, ..Limits::default() };
    assert!(parse_within(nested(Limits::DEEPEST).as_bytes(), &deepest).is_ok());
    assert!(parse_within(nested(Limits::DEEPEST + 1).as_bytes(), &deepest).is_err());
}

/// Nesting of a million levels costs no stack, whichever bracket it is made of.
#[test]
fn a_million_levels_are_refused_at_once() {
    for piece in ["[", "{\"a\":", "[{\"a\":"] {
        assert_eq!(problem(piece.repeat(1_000_000).as_bytes()), Problem::TooDeep(64), "{piece}");
    }
}

/// Looking for duplicate keys must not cost the square of their number: both documents hold almost as many
/// keys as the limits allow, one of them with a long beginning in common.
#[test]
fn many_keys_cost_no_square() {
    let fields: Vec<String> = (0..199_999).map(|n| format!("\"{n}\":0")).collect();
    let unique = format!("{{{}}}", fields.join(","));
    assert!(parse(unique.as_bytes()).is_ok());
    let duplicate = format!("{{{},\"0\":0}}", fields[..199_998].join(","));
    let error = parse(duplicate.as_bytes()).unwrap_err();
    assert_eq!(error, JsonError { offset: duplicate.len() - 6, problem: Problem::DuplicateKey });

    let prefix = "k".repeat(1000);
    let long: Vec<String> = (0..8000).map(|n| format!("\"{prefix}{n}\":0")).collect();
    assert!(parse(format!("{{{}}}", long.join(",")).as_bytes()).is_ok());
}

/// The small and the large way of finding duplicates agree, wherever the duplicate is.
#[test]
fn duplicates_are_found_in_objects_of_every_size() {
    for size in 1..24usize {
        for repeated in 0..size {
            let mut fields: Vec<String> = (0..size).map(|n| format!("\"{n}\":0")).collect();
            fields.push(format!("\"{repeated}\":0"));
            let document = format!("{{{}}}", fields.join(","));
            assert_eq!(problem(document.as_bytes()), Problem::DuplicateKey, "{document}");
        }
    }
}

#[test]
fn escapes_become_the_characters_they_mean() {
    let read = parse(br#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00\u0000""#).unwrap();
    assert_eq!(read, Value::from("\"\\/\u{8}\u{c}\n\r\tAé😀\0"));
}

fn problem(document: &[u8]) -> Problem {
    parse(document).unwrap_err().problem
}
