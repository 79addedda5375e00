//! What a caller adds to a document, merged over it.
//!
//! Objects are united, everything else replaces, arrays too; `null` leaves an object as it is. Values are carried as
//! text, so that no number changes on the way.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde_json::Error;
use serde_json::value::{RawValue, to_raw_value};

/// An object whose values are left as text. Of a key that is there twice the last counts.
type Object = BTreeMap<String, Box<RawValue>>;

/// Merges `addition`, which must be an object, over `document`.
///
/// # Errors
/// One of them is no JSON object, or nested too deeply.
pub(super) fn merge(document: &str, addition: &str) -> Result<String, Error> {
    let merged = merge_objects(serde_json::from_str(document)?, serde_json::from_str(addition)?, 0)?;
    serde_json::to_string(&merged)
}

fn merge_objects(mut base: Object, addition: Object, depth: usize) -> Result<Object, Error> {
    if depth == MAX_DEPTH {
        return Err(Error::custom(format_args!("nested more than {MAX_DEPTH} objects deep")));
    }
    for (key, added) in addition {
        let existing = base.remove(&key);
        let existing_object = existing.as_deref().filter(|existing| is_object(existing));
        let merged = match existing_object {
            Some(object) if added.get() == "null" => object.to_owned(),
            existing_object if is_object(&added) => {
                let below = existing_object.map_or(Ok(Object::new()), read)?;
                to_raw_value(&merge_objects(below, read(&added)?, depth + 1)?)?
            }
            _ => added,
        };
        base.insert(key, merged);
    }
    Ok(base)
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

fn read(value: &RawValue) -> Result<Object, Error> {
    serde_json::from_str(value.get())
}

/// As deep as the JSON reader itself goes.
const MAX_DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, from_str, json};

    use super::*;

    fn merged(document: &Value, addition: &Value) -> Value {
        from_str(&merge(&document.to_string(), &addition.to_string()).expect("objects")).expect("JSON")
    }

    #[test]
    fn objects_unite_and_everything_else_replaces() {
        for (document, addition, expected) in [
            (json!({"a": 1}), json!({}), json!({"a": 1})),
            (json!({"a": {"b": 1}}), json!({"a": {"c": 2}}), json!({"a": {"b": 1, "c": 2}})),
            (json!({"a": {"b": 1}}), json!({"a": {"b": {"c": 2}}}), json!({"a": {"b": {"c": 2}}})),
            (json!({"a": {"b": 1}}), json!({"a": null}), json!({"a": {"b": 1}})),
            (json!({"a": 1}), json!({"a": null, "n": null}), json!({"a": null, "n": null})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": false}), json!({"a": false})),
            (json!({"a": {"b": 1}}), json!({"A": {"b": 2}}), json!({"a": {"b": 1}, "A": {"b": 2}})),
        ] {
            assert_eq!(merged(&document, &addition), expected, "{document} + {addition}");
        }
    }

    #[test]
    fn of_a_repeated_key_the_last_counts() {
        let text = merge(r#"{"o":{}}"#, r#"{"a":1,"a":2,"o":{"b":1,"b":2},"n":{"c":1,"c":2}}"#).expect("objects");
        assert_eq!(text, r#"{"a":2,"n":{"c":2},"o":{"b":2}}"#);
    }

    #[test]
    fn d11_anything_but_an_object_is_refused() {
        for bad in ["null", " null ", "5", "[1]", "\"text\"", "true", "", "{", "{} {}", r#"{"a":}"#] {
            assert!(merge("{}", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn d12_numbers_stay_as_they_are() {
        let text = merge(
            r#"{"Size":18446744073709551615}"#,
            r#"{"o":{"n":9007199254740993,"big":123456789012345678901,"f":1.10}}"#,
        );
        let expected =
            r#"{"Size":18446744073709551615,"o":{"big":123456789012345678901,"f":1.10,"n":9007199254740993}}"#;
        assert_eq!(text.expect("objects"), expected);
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |depth: usize| format!("{}{}", r#"{"a":"#.repeat(depth) + "{}", "}".repeat(depth));
        assert!(merge("{}", &nest(MAX_DEPTH - 1)).is_ok());
        let error = merge("{}", &nest(10_000)).expect_err("too deep");
        assert!(error.to_string().contains("128"), "{error}");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<u64>().prop_map(Value::from), "[a-c]".prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn objects() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[a-c]", values(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    /// The table of the rules, over values instead of text.
    fn model(base: Option<&Value>, addition: &Value) -> Value {
        match (base, addition) {
            (base, Value::Object(added)) => {
                let mut result = base.and_then(Value::as_object).cloned().unwrap_or_default();
                for (key, value) in added {
                    let merged = model(result.get(key), value);
                    result.insert(key.clone(), merged);
                }
                Value::Object(result)
            }
            (Some(base @ Value::Object(_)), Value::Null) => base.clone(),
            (_, other) => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn it_follows_the_rules(document in objects(), addition in objects()) {
            prop_assert_eq!(merged(&document, &addition), model(Some(&document), &addition));
        }

        #[test]
        fn any_text_is_merged_or_refused(text in r#"[\[\]{}:,"a1nul\\ ]{0,24}"#) {
            let _ = merge(r#"{"a":{"b":1}}"#, &text);
        }
    }
}
