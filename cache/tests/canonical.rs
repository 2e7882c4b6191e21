//! Canonical bytes: the law that ties them to JSON, that no two values share them, and that they never change.

use std::collections::{BTreeMap, HashMap};

use dcsft_cache::canonical::{self, Fault};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Map, Number, Value, json};

fn bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    canonical::to_bytes(value).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct Everything {
    unit: (),
    flag: bool,
    small: u8,
    large: u64,
    negative: i32,
    ratio: f64,
    single: f32,
    name: &'static str,
    letter: char,
    none: Option<u8>,
    some: Option<u8>,
    list: Vec<i16>,
    pair: (u8, &'static str),
    table: BTreeMap<u32, bool>,
    wrapped: Wrapped,
    plain: Choice,
    newtype: Choice,
    tuple: Choice,
    fields: Choice,
    raw: Raw,
    nested: Inner,
}

#[derive(Serialize)]
struct Wrapped(u16);

#[derive(Serialize)]
struct Inner {
    b: u8,
    a: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[derive(Serialize)]
enum Choice {
    Plain,
    Newtype(u8),
    Tuple(u8, u8),
    Fields { y: u8, x: u8 },
}

struct Raw(&'static [u8]);

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn everything() -> Everything {
    Everything {
        unit: (),
        flag: true,
        small: 7,
        large: u64::MAX,
        negative: -3,
        ratio: 0.1,
        single: 0.1,
        name: "naïve",
        letter: 'ß',
        none: None,
        some: Some(0),
        list: vec![-1, 0, 1],
        pair: (1, "x"),
        table: BTreeMap::from([(10, true), (9, false)]),
        wrapped: Wrapped(5),
        plain: Choice::Plain,
        newtype: Choice::Newtype(1),
        tuple: Choice::Tuple(1, 2),
        fields: Choice::Fields { y: 1, x: 2 },
        raw: Raw(b"\x00\xff"),
        nested: Inner {
            b: 1,
            a: 2,
            rest: BTreeMap::from([("aa".into(), 3), ("c".into(), 4)]),
        },
    }
}

#[test]
fn typed_values_and_their_json_have_the_same_bytes() {
    let typed = everything();
    assert_eq!(bytes(&typed), bytes(&serde_json::to_value(&typed).unwrap()));
}

#[test]
fn one_number_has_one_form_and_integers_are_not_floats() {
    assert_eq!(bytes(&1u8), bytes(&1i128));
    assert_eq!(bytes(&u64::MAX), bytes(&i128::from(u64::MAX)));
    assert_eq!(bytes(&-0.0), bytes(&0.0));
    assert_eq!(bytes(&0.5f32), bytes(&0.5f64));
    assert_ne!(bytes(&0.1f32), bytes(&0.1f64));
    assert_ne!(bytes(&1), bytes(&1.0));
    assert_ne!(bytes(&1), bytes(&-1));
    assert_ne!(bytes(&i128::MIN), bytes(&i128::MAX));
    assert_ne!(bytes("1"), bytes(&1));
}

#[test]
fn the_order_of_a_map_does_not_matter() {
    let forward: Value =
        serde_json::from_str(r#"{"a": 1, "b": {"x": 1, "y": 2}, "c": 3}"#).unwrap();
    let backward: Value =
        serde_json::from_str(r#"{"c": 3, "b": {"y": 2, "x": 1}, "a": 1}"#).unwrap();
    assert_eq!(bytes(&forward), bytes(&backward));
    let unordered: HashMap<String, u32> = (0..50).map(|i| (format!("key{i}"), i)).collect();
    let ordered: BTreeMap<_, _> = unordered.clone().into_iter().collect();
    assert_eq!(bytes(&unordered), bytes(&ordered));
}

#[test]
fn the_bytes_of_each_type_have_not_changed() {
    let cases: &[(Value, &str)] = &[
        (json!(null), "00"),
        (json!(false), "01"),
        (json!(true), "02"),
        (json!(258), "0300000000000000000000000000000102"),
        (json!(-1), "0400000000000000000000000000000001"),
        (json!(1.5), "053ff8000000000000"),
        (json!("hé"), "06000000000000000368c3a9"),
        (json!([true, null]), "0700000000000000020200"),
        (
            json!({"b": null, "a": false}),
            "0800000000000000020000000000000001610100000000000000016200",
        ),
        (json!([]), "070000000000000000"),
        (json!({}), "080000000000000000"),
    ];
    for (value, expected) in cases {
        assert_eq!(
            &hex(&bytes(value)),
            expected,
            "canonical bytes of {value} changed: every key would change"
        );
    }
}

/// A change here makes every cache of every user void. Change it only together with the layout version.
#[test]
fn digests_have_not_changed() {
    let digest = |domain, value: &Value| canonical::digest(domain, value).unwrap().to_string();
    let value = serde_json::to_value(everything()).unwrap();
    assert_eq!(
        digest("dcsft test v1", &value),
        "ca87ab794d22ffb7371d809d9078cb9165ccfd07dd3a450a54f8bab7286e4898"
    );
    assert_eq!(
        digest("dcsft test v2", &value),
        "745079428d6c4e7190423033a37e9dd72356af14776a2bcc835fa5fa868206af"
    );
    assert_eq!(
        canonical::digest("dcsft test v1", &everything())
            .unwrap()
            .to_string(),
        digest("dcsft test v1", &value)
    );
}

#[test]
fn what_has_no_place_in_a_key_is_refused_with_its_path() {
    #[derive(Serialize)]
    struct Params {
        with: BTreeMap<&'static str, Vec<f64>>,
    }
    let error = canonical::to_bytes(&Params {
        with: BTreeMap::from([("lr", vec![1.0, 0.5, f64::NAN])]),
    })
    .unwrap_err();
    assert_eq!(error.path, "with.lr[2]");
    assert_eq!(
        error.to_string(),
        "with.lr[2]: NaN cannot be part of a key; use a finite number"
    );

    let error = canonical::to_bytes(&Some(f32::NEG_INFINITY)).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.fault),
        ("", Fault::NotFinite(f64::NEG_INFINITY))
    );

    let pairs = BTreeMap::from([((1, 2), 3)]);
    let error = canonical::to_bytes(&vec![pairs]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "[0]: a sequence cannot be a map key; use a string"
    );
}

#[test]
fn a_key_that_occurs_twice_is_refused() {
    let clash = Inner {
        b: 1,
        a: 2,
        rest: BTreeMap::from([("a".into(), 3)]),
    };
    assert_eq!(
        canonical::to_bytes(&clash).unwrap_err().fault,
        Fault::DuplicateKey("a".into())
    );
}

#[test]
fn too_deep_a_nesting_is_refused_not_a_crash() {
    let nest = |depth| (0..depth).fold(json!(0), |inner, _| json!([inner]));
    assert!(canonical::to_bytes(&nest(canonical::MAX_DEPTH)).is_ok());
    assert_eq!(
        canonical::to_bytes(&nest(canonical::MAX_DEPTH + 1))
            .unwrap_err()
            .fault,
        Fault::TooDeep
    );
}

/// Reads canonical bytes back. That this is possible proves that no two values share bytes.
struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        head
    }

    fn length(&mut self) -> usize {
        u64::from_be_bytes(self.take(8).try_into().unwrap()) as usize
    }

    fn magnitude(&mut self) -> u128 {
        u128::from_be_bytes(self.take(16).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.length();
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn value(&mut self) -> Value {
        match self.take(1)[0] {
            0 => Value::Null,
            1 => json!(false),
            2 => json!(true),
            3 => json!(u64::try_from(self.magnitude()).unwrap()),
            4 => json!(i64::try_from(-(self.magnitude() as i128)).unwrap()),
            5 => json!(f64::from_bits(u64::from_be_bytes(
                self.take(8).try_into().unwrap()
            ))),
            6 => Value::String(self.text()),
            7 => (0..self.length()).map(|_| self.value()).collect(),
            8 => Value::Object(
                (0..self.length())
                    .map(|_| (self.text(), self.value()))
                    .collect(),
            ),
            tag => panic!("no such type: {tag}"),
        }
    }
}

/// Values with few distinct leaves, so that random pairs are often nearly equal.
fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        (-2i64..3).prop_map(Number::from),
        any::<f64>().prop_filter_map("finite", Number::from_f64),
        (-2i8..3).prop_filter_map("finite", |n| Number::from_f64(f64::from(n))),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number.prop_map(Value::Number),
        "[ab\u{0}é]{0,3}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec(("[ab\u{0}é]{0,2}", inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// The same value with all maps in reverse order.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(reversed).collect(),
        Value::Object(map) => Value::Object(
            map.iter()
                .rev()
                .map(|(key, value)| (key.clone(), reversed(value)))
                .collect::<Map<_, _>>(),
        ),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn every_value_can_be_read_back_from_its_bytes(value in value()) {
        let encoded = bytes(&value);
        let mut decoder = Decoder(&encoded);
        prop_assert_eq!(decoder.value(), value);
        prop_assert!(decoder.0.is_empty());
    }

    #[test]
    fn bytes_are_equal_just_where_values_are(a in value(), b in value()) {
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }

    #[test]
    fn neither_order_nor_a_trip_through_json_text_changes_bytes(value in value()) {
        prop_assert_eq!(bytes(&reversed(&value)), bytes(&value));
        let text = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(bytes(&serde_json::from_str::<Value>(&text).unwrap()), bytes(&value));
    }

    #[test]
    fn any_change_of_a_struct_field_changes_the_digest(lr in any::<u64>(), delta in 1u64..) {
        let digest = |lr: u64| canonical::digest("dcsft test v1", &json!({"kind": "sft", "with": {"lr": lr}})).unwrap();
        prop_assert_ne!(digest(lr), digest(lr.wrapping_add(delta)));
    }
}
