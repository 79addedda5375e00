//! Replies of the host's network service in its older style.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The network service refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ReplyError {
    /// Its own words, or the whole reply if it is not of the schema.
    pub text: String,
}

/// Reads a reply: the object in it, empty if there is none.
///
/// # Errors
/// The service refused, or the reply is none.
pub fn read_reply(reply: &str) -> Result<String, ReplyError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Reply<'a> {
        success: bool,
        #[serde(default)]
        error: String,
        #[serde(borrow, default)]
        output: Option<&'a RawValue>,
    }
    let unreadable = |_| ReplyError { text: reply.to_owned() };
    let reply: Reply<'_> = serde_json::from_str(reply).map_err(unreadable)?;
    if !reply.success {
        return Err(ReplyError { text: reply.error });
    }
    Ok(reply.output.map(|output| output.get().to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_an_object_or_a_refusal() {
        assert_eq!(read_reply(r#"{"Success":true,"Output":{"ID":"a"}}"#).as_deref(), Ok(r#"{"ID":"a"}"#));
        assert_eq!(read_reply(r#"{"Success":true}"#).as_deref(), Ok(""));
        for (reply, text) in [
            (r#"{"Success":false,"Error":"Element not found. "}"#, "Element not found. "),
            ("nonsense", "nonsense"),
            ("{}", "{}"),
        ] {
            assert_eq!(read_reply(reply), Err(ReplyError { text: text.into() }));
        }
    }
}
