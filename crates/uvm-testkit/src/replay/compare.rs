//! Whether what we did is what was recorded, by the rules of the recordings.

use std::collections::BTreeMap;

use serde_json::{Map, Value, from_str};

/// What differs between a case as it is expected and as it was run, each in one line: calls, what was sent in which order,
/// what was returned, and whether something failed; not the words of errors, message ids and notes.
pub fn differences(recorded: &Value, ours: &Value) -> Vec<String> {
    let empty = Vec::new();
    let calls = |case: &'_ Value| case["calls"].as_array().cloned().unwrap_or_default();
    let (theirs, ours) = (calls(recorded), calls(ours));
    let mut names = Renames::default();
    let mut found = Vec::new();
    for (number, call) in theirs.iter().enumerate() {
        let place = format!("{number} {}", call["call"].as_str().unwrap_or_default());
        let Some(our) = ours.get(number) else {
            found.push(format!("{place}: not run"));
            break;
        };
        if call["error"].is_null() != our["error"].is_null() {
            found.push(format!("{place}: error {} here {}", short(&call["error"]), short(&our["error"])));
        }
        if call["error_is"] != our["error_is"] {
            found.push(format!("{place}: error_is {} here {}", call["error_is"], our["error_is"]));
        }
        let (their_list, our_list) = (call["recorded"].as_array(), our["recorded"].as_array());
        let their_list = normal(their_list.unwrap_or(&empty));
        let our_list = normal(our_list.unwrap_or(&empty));
        compare_lists(&place, call["unordered"] == true, &their_list, &our_list, &mut names, &mut found);
        if !names.same(&call["returned"], &our["returned"]) {
            found.push(format!("{place}: returned {}", first_difference(&call["returned"], &our["returned"])));
        }
    }
    found
}

fn compare_lists(
    place: &str,
    unordered: bool,
    theirs: &[Value],
    ours: &[Value],
    names: &mut Renames,
    found: &mut Vec<String>,
) {
    if unordered {
        let mut left: Vec<&Value> = ours.iter().collect();
        for their in theirs {
            match left.iter().position(|our| names.clone().same(their, our)) {
                Some(at) => {
                    names.same(their, left.remove(at));
                }
                None => found.push(format!("{place}: missing {}", short(their))),
            }
        }
        found.extend(left.iter().map(|our| format!("{place}: too much {}", short(our))));
        return;
    }
    for index in 0..theirs.len().max(ours.len()) {
        match (theirs.get(index), ours.get(index)) {
            (Some(their), Some(our)) if names.same(their, our) => {}
            (Some(their), Some(our)) => found.push(format!("{place}: {}", first_difference(their, our))),
            (Some(their), None) => found.push(format!("{place}: missing {}", short(their))),
            (None, Some(our)) => found.push(format!("{place}: too much {}", short(our))),
            (None, None) => {}
        }
    }
}

/// The entries without what is not compared: message ids, notes, and how often a new system is asked for what every
/// system has.
fn normal(list: &[Value]) -> Vec<Value> {
    let is_compared = |entry: &&Value| !(entry["op"] == "get_properties" && entry["json"] == Value::Object(Map::new()));
    let strip = |entry: &Value| {
        let mut entry = parsed(entry);
        if let Value::Object(object) = &mut entry {
            for key in ["message_id", "note"] {
                object.remove(key);
            }
            // The original writes no result without its zeros.
            if let Some(Value::String(failure)) = object.get_mut("failure")
                && let Some(text) = failure.strip_prefix("0x0 ")
            {
                *failure = format!("0x00000000 {text}");
            }
        }
        entry
    };
    list.iter().filter(is_compared).map(strip).collect()
}

/// Strings that hold JSON, as what they hold.
fn parsed(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .map(|(key, value)| {
                    let holds_json = HOLD_JSON.contains(&key.as_str());
                    let held = value.as_str().filter(|_| holds_json).and_then(|text| from_str(text).ok());
                    (key.clone(), held.unwrap_or_else(|| parsed(value)))
                })
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().map(parsed).collect()),
        other => other.clone(),
    }
}

const HOLD_JSON: [&str; 4] = ["ContainerConfig", "ProcessParameters", "Query", "Resources"];

/// GUIDs that the original drew by a counter, and ours.
#[derive(Clone, Default)]
struct Renames {
    by_theirs: BTreeMap<String, String>,
    by_ours: BTreeMap<String, String>,
}

impl Renames {
    fn same(&mut self, theirs: &Value, ours: &Value) -> bool {
        match (theirs, ours) {
            (Value::String(theirs), Value::String(ours)) => self.same_text(theirs, ours),
            (Value::Array(theirs), Value::Array(ours)) => {
                theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(a, b)| self.same(a, b))
            }
            (Value::Object(theirs), Value::Object(ours)) => {
                theirs.len() == ours.len()
                    && theirs.iter().all(|(key, value)| ours.get(key).is_some_and(|our| self.same(value, our)))
            }
            (theirs, ours) => theirs == ours,
        }
    }

    fn same_text(&mut self, theirs: &str, ours: &str) -> bool {
        let Some(at) = theirs.find(DRAWN) else { return theirs == ours };
        let end = at + GUID_LENGTH;
        let (Some(head), Some(drawn), Some(tail)) = (theirs.get(..at), theirs.get(at..end), theirs.get(end..)) else {
            return theirs == ours;
        };
        let (Some(our_head), Some(our), Some(our_tail)) = (ours.get(..at), ours.get(at..end), ours.get(end..)) else {
            return false;
        };
        let is_guid = our.len() == GUID_LENGTH && our.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        let known = self.by_theirs.entry(drawn.to_owned()).or_insert_with(|| our.to_owned()) == our;
        let only = self.by_ours.entry(our.to_owned()).or_insert_with(|| drawn.to_owned()) == drawn;
        head == our_head && is_guid && known && only && self.same_text(tail, our_tail)
    }
}

const DRAWN: &str = "00000000-0000-4000-8000-";
const GUID_LENGTH: usize = 36;

/// Where two values differ first, and how.
fn first_difference(theirs: &Value, ours: &Value) -> String {
    let pairs: Vec<(String, &Value, &Value)> = match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) if theirs.get("op") == ours.get("op") => {
            let keys = theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key)));
            keys.map(|key| {
                let [their, our] = [theirs, ours].map(|object| object.get(key).unwrap_or(&Value::Null));
                (format!("/{key}"), their, our)
            })
            .collect()
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            let pairs = theirs.iter().zip(ours).enumerate();
            pairs.map(|(at, (their, our))| (format!("/{at}"), their, our)).collect()
        }
        _ => Vec::new(),
    };
    match pairs.iter().find(|(_, their, our)| !Renames::default().same(their, our)) {
        Some((key, their, our)) => format!("{key}{}", first_difference(their, our)),
        None => format!(" {} here {}", short(theirs), short(ours)),
    }
}

/// A value in one line that a person can read.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn case(recorded: &Value) -> Value {
        json!({"calls": [{"call": "X", "error": null, "recorded": recorded}]})
    }

    fn differ(theirs: &Value, ours: &Value) -> usize {
        differences(&case(theirs), &case(ours)).len()
    }

    #[test]
    fn what_is_not_to_be_compared_is_not() {
        let theirs = json!([
            {"op": "get_properties", "json": {}}, {"op": "get_properties", "json": {}},
            {"op": "a", "message_id": 7, "note": "n", "json": {"Query": "{\"a\": 1}"}}
        ]);
        assert_eq!(differ(&theirs, &json!([{"op": "a", "message_id": 8, "json": {"Query": "{\"a\":1}"}}])), 0);
        assert_eq!(differ(&theirs, &json!([{"op": "a", "json": {"Query": "{\"a\":2}"}}])), 1);
        assert_eq!(differ(&theirs, &json!([])), 1);
        let failure = |text: &str| json!([{"op": "a", "failure": text}]);
        assert_eq!(differ(&failure("0x0 a"), &failure("0x00000000 a")), 0);
        assert_eq!(differ(&failure("0x0 a"), &failure("0x00000005 a")), 1);
        assert_eq!(differ(&json!([{"op": "a"}]), &json!([{"op": "a"}, {"op": "b"}])), 1);
    }

    #[test]
    fn order_counts_unless_a_call_says_otherwise() {
        let (theirs, ours) = (json!([{"op": "a"}, {"op": "b"}]), json!([{"op": "b"}, {"op": "a"}]));
        assert_eq!(differ(&theirs, &ours), 2);
        let mut unordered = case(&theirs);
        unordered["calls"][0]["unordered"] = json!(true);
        assert!(differences(&unordered, &case(&ours)).is_empty());
        assert_eq!(differences(&unordered, &case(&json!([{"op": "b"}, {"op": "b"}]))).len(), 2);
    }

    #[test]
    fn drawn_guids_are_the_same_up_to_a_renaming() {
        let drawn = |n: u32| format!("x/00000000-0000-4000-8000-00000000000{n}/y");
        let ours = |n: u32| format!("x/aaaaaaaa-0000-4000-8000-00000000000{n}/y");
        let list = |names: [String; 3]| json!(names.map(|name| json!({"id": name})));
        let theirs = list([drawn(1), drawn(2), drawn(1)]);
        assert_eq!(differ(&theirs, &list([ours(7), ours(3), ours(7)])), 0);
        assert_eq!(differ(&theirs, &list([ours(7), ours(3), ours(3)])), 1);
        assert_eq!(differ(&theirs, &list([ours(7), ours(7), ours(7)])), 1);
        assert_eq!(differ(&theirs, &list([ours(7), "x/y".into(), ours(7)])), 1);
    }

    #[test]
    fn errors_are_compared_by_being_there_and_by_name() {
        let call = |error: Value, is: Value| json!({"calls": [{"call": "X", "error": error, "error_is": is}]});
        assert!(differences(&call(json!("a"), Value::Null), &call(json!("b"), Value::Null)).is_empty());
        assert_eq!(differences(&call(json!("a"), Value::Null), &call(Value::Null, Value::Null)).len(), 1);
        assert_eq!(differences(&call(json!("a"), json!("ErrX")), &call(json!("a"), Value::Null)).len(), 1);
    }
}
