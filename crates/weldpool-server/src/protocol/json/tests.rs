use proptest::prelude::*;

use super::*;

fn reader(text: &str) -> Reader<'_> {
    Reader::new(text.as_bytes(), 8).unwrap()
}

/// Whether the whole text is one value.
fn accepts(text: &str) -> bool {
    let mut reader = reader(text);
    reader.skip().and_then(|_| reader.end()).is_ok()
}

#[test]
fn json_is_accepted() {
    for text in [
        "0",
        "-0",
        "10",
        "1.5",
        "1e5",
        "1E-5",
        "-2.25e+10",
        "NaN",
        "-NaN",
        "Infinity",
        "-Inf",
        "Inf",
        "true",
        "false",
        "null",
        r#""""#,
        r#""a\"b\\\/\b\f\n\r\t""#,
        r#""\u00e9\ud83d\ude00""#,
        "[]",
        "[1]",
        "[[],[ ]]",
        "{}",
        r#"{"a":1,"b":[true,null]}"#,
        " {\n\t\"a\" : 1 }\r\n",
        "\u{feff}{}",
        "[[[[[[[[]]]]]]]]",
    ] {
        assert!(accepts(text), "{text}");
    }
}

#[test]
fn other_text_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1 \"b\":2}",
        "01",
        "-01",
        "00",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "-",
        "0x10",
        "1_0",
        "nan",
        "inf",
        "NaNa",
        "Infinit",
        "tru",
        "nul",
        "truefalse",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"a\nb\"",
        "\"a",
        "1 2",
        "{}x",
        "/*a*/1",
        "[[[[[[[[[]]]]]]]]]",
    ] {
        assert!(!accepts(text), "{text}");
    }
}

#[test]
fn errors_say_where() {
    let at = |text: &str| {
        let mut reader = reader(text);
        reader.skip().and_then(|_| reader.end()).unwrap_err().at
    };
    assert_eq!(at("[1,x]"), 3);
    assert_eq!(at("{\"a\" 1}"), 5);
    assert_eq!(at("1 2"), 2);
    assert_eq!(at("[1"), 2);
    let error = Reader::new(b"ab\xffc", 8).unwrap_err();
    assert_eq!(
        (error.at, error.to_string()),
        (2, "bytes are not UTF-8 at byte 2".to_owned())
    );
    let error = reader("[[[[[[[[[1]]]]]]]]]").skip().unwrap_err();
    assert_eq!((error.at, error.reason), (8, Reason::TooDeep(8)));
}

#[test]
fn a_value_of_another_kind_is_told_from_broken_text() {
    let error = reader(" \"x\"").number().unwrap_err();
    assert_eq!(error.at, 1);
    assert_eq!(
        error.reason,
        Reason::Unexpected {
            wanted: Kind::Number,
            found: Kind::String
        }
    );
    assert_eq!(
        error.to_string(),
        "expected a number, found a string at byte 1"
    );
    let error = reader("nul").number().unwrap_err();
    assert!(matches!(error.reason, Reason::Syntax(_)));
    assert!(matches!(
        reader("{").string().unwrap_err().reason,
        Reason::Syntax(_)
    ));
}

#[test]
fn strings_are_borrowed_unless_escaped() {
    assert!(matches!(
        reader("\"h\u{e9}\"").string(),
        Ok(Cow::Borrowed("h\u{e9}"))
    ));
    assert_eq!(
        reader(r#""\u0048\u00e9\ud83d\ude00\n/\/""#)
            .string()
            .unwrap(),
        "H\u{e9}\u{1f600}\n//"
    );
    assert_eq!(reader(r#""\u0000""#).string().unwrap(), "\0");
}

#[test]
fn numbers_keep_their_precision() {
    let number = |text: &'static str| reader(text).number().unwrap();
    assert_eq!(
        number("18446744073709551615").integer::<u64>(),
        Some(u64::MAX)
    );
    assert_eq!(
        number("-9223372036854775808").integer::<i64>(),
        Some(i64::MIN)
    );
    assert_eq!(number("9223372036854775808").integer::<i64>(), None);
    assert_eq!(number("128").integer::<i8>(), None);
    assert_eq!(number("-1").integer::<u8>(), None);
    assert_eq!(number("-0").integer::<u8>(), Some(0));
    assert_eq!(number("-0").integer::<i8>(), Some(0));
    assert_eq!(number("1.0").integer::<i32>(), None);
    assert_eq!(number("1e2").integer::<i32>(), None);
    assert_eq!(number("NaN").integer::<i32>(), None);
    assert_eq!(number("0.1").float(), Some(0.1));
    assert_eq!(number("5e-324").float(), Some(5e-324));
    assert_eq!(number("1e-999").float(), Some(0.0));
    assert_eq!(number("1e999").float(), None);
    assert_eq!(number("-Inf").float(), Some(f64::NEG_INFINITY));
    assert!(number("-NaN").float().unwrap().is_nan());
}

#[test]
fn a_skipped_value_can_be_read_later() {
    let mut reader = reader(r#"{"data": [1, [2]], "type": "x"}"#);
    let mut data = None;
    reader
        .object(|reader, name| -> Result<(), JsonError> {
            if name == "data" {
                data = Some(reader.skip()?);
            } else {
                assert_eq!(reader.string()?, "x");
            }
            Ok(())
        })
        .unwrap();
    reader.end().unwrap();
    let mut part = reader.part(data.unwrap());
    let mut kinds = Vec::new();
    part.array(|reader| -> Result<(), JsonError> {
        kinds.push(reader.kind()?);
        reader.skip().map(drop)
    })
    .unwrap();
    assert_eq!(kinds, [Kind::Number, Kind::Array]);
    assert_eq!(part.remaining(), 0);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e9..1e9_f64).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_writes_is_read(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        prop_assert!(accepts(&text), "{}", text);
        if let serde_json::Value::String(string) = &value {
            prop_assert_eq!(reader(&text).string().unwrap(), string.as_str());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(mut reader) = Reader::new(&bytes, 8) {
            let _ = reader.skip();
            let _ = reader.end();
        }
    }

    #[test]
    fn nothing_that_serde_refuses_is_accepted(text in r#"[\[\]\{\}",:0-9eE.+a-z\\ -]{0,16}"#) {
        if accepts(&text) {
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
        }
    }
}
