//! The text that the service gives with a failure.

use std::fmt;

use serde::Deserialize;

/// What the service says of a failure: a message and what its parts reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ResultDetail {
    /// Its message; may be empty.
    pub error_message: String,
    /// What its parts reported.
    pub error_events: Vec<ErrorEvent>,
}

/// What one part of the service reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ErrorEvent {
    /// Its message.
    pub message: String,
    /// Where in its code, if it says.
    pub stack_trace: String,
    /// Who reported it, a GUID.
    pub provider: String,
    /// Which of its events.
    pub event_id: u16,
    /// Flags of the event.
    pub flags: u32,
    /// The part's name.
    pub source: String,
}

impl ResultDetail {
    /// Reads the service's text. One that is not of the schema becomes the message: nothing is lost.
    pub fn read(text: &str) -> Self {
        if text.trim().is_empty() {
            return Self::default();
        }
        serde_json::from_str(text).unwrap_or_else(|_| Self { error_message: text.to_owned(), ..Self::default() })
    }

    /// `true` if the service said nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// As the tail of a sentence: `; MESSAGE; MESSAGE (event 9 of SOURCE)`.
impl fmt::Display for ResultDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.error_message.is_empty() {
            write!(f, "; {}", self.error_message)?;
        }
        for event in &self.error_events {
            let who = if event.source.is_empty() { &event.provider } else { &event.source };
            write!(f, "; {} (event {} of {who})", event.message, event.event_id)?;
            if !event.stack_trace.is_empty() {
                write!(f, " at {}", event.stack_trace)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_with_who_reported_them() {
        let text = r#"{"Error":-2147024809,"ErrorMessage":"no","ErrorEvents":[
            {"Message":"planted","Provider":"p","EventId":9},{"Message":"x","Source":"vmwp","StackTrace":"f+1"}]}"#;
        let detail = ResultDetail::read(text);
        assert_eq!(detail.to_string(), "; no; planted (event 9 of p); x (event 0 of vmwp) at f+1");
    }

    #[test]
    fn what_is_not_of_the_schema_is_told_as_it_is() {
        assert!(ResultDetail::read(" ").is_empty());
        assert_eq!(ResultDetail::read("out of luck").to_string(), "; out of luck");
        assert_eq!(ResultDetail::read(r#"{"ErrorEvents":5}"#).to_string(), r#"; {"ErrorEvents":5}"#);
    }
}
