//! `GetProperties`: what runs in a container and what it uses.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::call::{Reply, sealed::Sealed};
use crate::json::{JsonError, RawJson, from_str, text};
use crate::metrics::Metrics;
use crate::object::{omitting_object, words};

/// Reads properties of a container. Fails for the VM itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GetProperties {
    /// What to read. On the wire a string that holds JSON; an empty string asks for nothing.
    #[serde(rename = "Query", serialize_with = "text::serialize", deserialize_with = "query")]
    pub query: PropertyQuery,
}

fn query<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PropertyQuery, D::Error> {
    text::optional::deserialize(deserializer).map(Option::unwrap_or_default)
}

omitting_object! {
    /// The properties that are asked for.
    pub struct PropertyQuery {
        /// Their kinds.
        pub property_types: Vec<PropertyType> = "PropertyTypes",
    }
}

words! {
    /// A kind of properties. Guests ignore kinds they do not know.
    pub enum PropertyType {
        /// All processes of the container.
        ProcessList = "ProcessList",
        /// What it uses, as cgroup counters.
        Statistics = "Statistics",
    }
}

/// Answers [`GetProperties`]: on the wire a string that holds JSON, in the key `Properties`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetPropertiesReply {
    /// The properties as a host gets them. Those of a Linux guest are read with [`linux`](Self::linux).
    Document(RawJson),
    /// The properties that a Linux guest answers with.
    Linux(Box<LinuxProperties>),
}

impl GetPropertiesReply {
    /// The properties that a Linux guest gives.
    ///
    /// # Errors
    /// [`JsonError`]: the guest sent something else.
    pub fn linux(&self) -> Result<LinuxProperties, JsonError> {
        match self {
            Self::Document(document) => from_str(document.get()),
            Self::Linux(properties) => Ok(LinuxProperties::clone(properties)),
        }
    }
}

impl Sealed for GetPropertiesReply {}

impl Reply for GetPropertiesReply {
    /// Only what this side has made can be taken apart. (An agent so needs no code that reads metrics.)
    fn shrink(&mut self, excess: usize) -> bool {
        match self {
            Self::Document(_) => false,
            Self::Linux(properties) => properties.shed(excess),
        }
    }
}

#[derive(Serialize)]
struct Written<'a, T: Serialize> {
    #[serde(rename = "Properties", serialize_with = "text::serialize")]
    properties: &'a T,
}

impl Serialize for GetPropertiesReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Document(properties) => Written { properties }.serialize(serializer),
            Self::Linux(properties) => Written { properties: &**properties }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for GetPropertiesReply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Read {
            #[serde(rename = "Properties", deserialize_with = "text::deserialize")]
            properties: RawJson,
        }
        Read::deserialize(deserializer).map(|read| Self::Document(read.properties))
    }
}

omitting_object! {
    /// The properties that a Linux guest gives: those that were asked for.
    pub struct LinuxProperties {
        /// All processes of the container, zombies included.
        pub process_list: Option<Vec<ProcessDetails>> = "ProcessList",
        /// An extension of ours: how many processes are missing in the list, because a response has no room for them.
        pub processes_omitted: u32 = "ProcessesOmitted",
        /// What the container uses.
        pub metrics: Option<Box<Metrics>> = "LCOWMetrics",
    }
}

/// One process of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessDetails {
    /// Its pid in the VM's root pid namespace.
    #[serde(rename = "ProcessId")]
    pub process_id: u32,
}

impl LinuxProperties {
    /// Gives up what matters least: first the lists in the metrics, then the end of the process list.
    fn shed(&mut self, excess: usize) -> bool {
        // What an entry takes beside its number, and what the count of missing ones takes; the quotes are escaped.
        const ENTRY: usize = r#"{\"ProcessId\":},"#.len();
        const OMISSION: usize = r#",\"ProcessesOmitted\":4294967295"#.len();

        if self.metrics.as_mut().is_some_and(|metrics| metrics.shed()) {
            return true;
        }
        let Some(processes) = self.process_list.as_mut().filter(|list| !list.is_empty()) else { return false };
        let mut freed = 0;
        while freed < excess + OMISSION
            && let Some(last) = processes.pop()
        {
            freed += ENTRY + last.process_id.checked_ilog10().unwrap_or(0) as usize + 1;
            self.processes_omitted = self.processes_omitted.saturating_add(1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_and_an_empty_one_ask_for_nothing() {
        for text in ["{}", r#"{"Query":""}"#, r#"{"Query":null}"#, r#"{"Query":"{}"}"#, r#"{"Query":"null"}"#] {
            assert_eq!(from_str::<GetProperties>(text).unwrap(), GetProperties::default(), "{text}");
        }
        assert_eq!(serde_json::to_string(&GetProperties::default()).unwrap(), r#"{"Query":"{}"}"#);
        assert!(from_str::<GetProperties>(r#"{"Query":"{"}"#).is_err());
        assert!(from_str::<GetProperties>(r#"{"Query":{}}"#).is_err());
    }

    #[test]
    fn kinds_that_are_not_known_are_kept_by_name() {
        let query: PropertyQuery = from_str(r#"{"PropertyTypes":["Statistics","Weather"]}"#).unwrap();
        assert_eq!(query.property_types, [PropertyType::Statistics, PropertyType::Other("Weather".into())]);
    }

    #[test]
    fn a_reply_without_properties_is_refused() {
        for bad in ["{}", r#"{"Properties":""}"#, r#"{"Properties":{}}"#] {
            assert!(from_str::<GetPropertiesReply>(bad).is_err(), "{bad}");
        }
    }
}
