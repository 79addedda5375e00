//! The shape most settings share: an object whose keys are left out when zero, empty or false.

/// Whether a value is left out.
pub(crate) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Defines a struct that is an object on the wire, each field left out while it has its default value.
///
/// `pub field: Type = "Key"`; the keys are written in the order given. Attributes, also serde's, may stand before a field.
macro_rules! omitting_object {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty = $key:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(rename = $key, skip_serializing_if = "crate::object::is_empty")]
                pub $field: $type,
            )*
        }
    };
}

/// Defines an enum that is one of some words on the wire, with `Other` for every word a newer peer may send.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
            /// A word that is not known here.
            Other(Box<str>),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.into()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::object::Word::deserialize(deserializer).map(|word| Self::from(word.0.as_ref()))
            }
        }
    };
}

pub(crate) use {omitting_object, words};

/// A string, borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Word<'a>(#[serde(borrow)] pub(crate) std::borrow::Cow<'a, str>);
