//! A deserializer over `serde_json`'s that reads objects and `null` the way the original peers do.
//!
//! Why here and not in each type: a struct's visitor tells the deserializer the keys it knows, so one adapter can match
//! them regardless of case for every message, and the derived code stays what everybody knows. A key spelled exactly
//! costs one comparison more than without the adapter; only a key that matches nothing is compared again without case.
//!
//! What is opaque stays opaque: raw values, maps' keys, enums and ignored values go to `serde_json` untouched.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, CowStrDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Reads by the rules of the [module](self) from the deserializer inside.
pub(crate) struct Lenient<D>(pub(crate) D);

/// What a `deserialize_*` call asks for: how to read it, and its empty value for `null`.
trait Wanted {
    fn read<'de, D: Deserializer<'de>, V: Visitor<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error>;
    fn empty<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E>;
}

/// Reads an optional value and turns "none" into the empty value.
struct NullIsEmpty<W, V> {
    wanted: W,
    visitor: V,
}

impl<'de, W: Wanted, V: Visitor<'de>> Visitor<'de> for NullIsEmpty<W, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.wanted.empty(self.visitor)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.wanted.read(from, self.visitor)
    }
}

/// A scalar of the type that `$read` reads.
macro_rules! scalars {
    ($($wanted:ident: $read:ident or $visit:ident($empty:expr);)*) => { $(
        struct $wanted;

        impl Wanted for $wanted {
            fn read<'de, D: Deserializer<'de>, V: Visitor<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
                from.$read(visitor)
            }
            fn empty<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E> {
                visitor.$visit($empty)
            }
        }
    )* };
}

scalars! {
    Bool: deserialize_bool or visit_bool(false);
    I32: deserialize_i32 or visit_i32(0);
    I64: deserialize_i64 or visit_i64(0);
    U8: deserialize_u8 or visit_u8(0);
    U16: deserialize_u16 or visit_u16(0);
    U32: deserialize_u32 or visit_u32(0);
    U64: deserialize_u64 or visit_u64(0);
    Str: deserialize_str or visit_borrowed_str("");
}

/// An array.
struct Seq;

impl Wanted for Seq {
    fn read<'de, D: Deserializer<'de>, V: Visitor<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
        from.deserialize_seq(SeqVisitor(visitor))
    }
    fn empty<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<()>()))
    }
}

/// An object: with `fields`, the known keys of a struct; without, a map whose keys are data.
struct Object {
    fields: &'static [&'static str],
}

impl Wanted for Object {
    fn read<'de, D: Deserializer<'de>, V: Visitor<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
        from.deserialize_map(ObjectVisitor { fields: self.fields, visitor })
    }
    fn empty<'de, V: Visitor<'de>, E: Error>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_map(MapDeserializer::new(std::iter::empty::<((), ())>()))
    }
}

struct SeqVisitor<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for SeqVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(LenientSeq(access))
    }
}

struct LenientSeq<A>(A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for LenientSeq<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(LenientSeed(seed))
    }
}

struct ObjectVisitor<V> {
    fields: &'static [&'static str],
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ObjectVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(LenientMap { fields: self.fields, access })
    }
}

struct LenientMap<A> {
    fields: &'static [&'static str],
    access: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for LenientMap<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if self.fields.is_empty() {
            return self.access.next_key_seed(seed);
        }
        let Some(key) = self.access.next_key_seed(KeySeed)? else { return Ok(None) };
        match known_key(self.fields, &key) {
            Some(field) => seed.deserialize(BorrowedStrDeserializer::new(field)).map(Some),
            None => seed.deserialize(CowStrDeserializer::new(key)).map(Some),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.access.next_value_seed(LenientSeed(seed))
    }
}

/// The field that `key` means: the one spelled so, else the first that differs in the case of ASCII letters only.
fn known_key(fields: &'static [&'static str], key: &str) -> Option<&'static str> {
    let exact = fields.iter().find(|field| **field == key);
    exact.or_else(|| fields.iter().find(|field| field.eq_ignore_ascii_case(key))).copied()
}

/// Reads a key, without a copy where it holds no escapes.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Cow<'de, str>, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

struct LenientSeed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for LenientSeed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Lenient(from))
    }
}

/// An optional value: `null` is none already, the value inside is read by our rules.
struct OptionVisitor<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OptionVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Lenient(from))
    }
}

macro_rules! wanted {
    ($($method:ident => $wanted:expr;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.deserialize_option(NullIsEmpty { wanted: $wanted, visitor })
        }
    )* };
}

macro_rules! untouched {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        }
    )* };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Lenient<D> {
    type Error = D::Error;

    wanted! {
        deserialize_bool => Bool;
        deserialize_i32 => I32;
        deserialize_i64 => I64;
        deserialize_u8 => U8;
        deserialize_u16 => U16;
        deserialize_u32 => U32;
        deserialize_u64 => U64;
        deserialize_str => Str;
        deserialize_string => Str;
        deserialize_seq => Seq;
        deserialize_map => Object { fields: &[] };
    }

    untouched! {
        deserialize_any deserialize_i8 deserialize_i16 deserialize_i128 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier
        deserialize_ignored_any
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(NullIsEmpty { wanted: Object { fields }, visitor })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(OptionVisitor(visitor))
    }

    /// Raw values come this way, and must reach `serde_json` as they are.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::{RawJson, from_str};

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        #[serde(rename = "ContainerId")]
        id: String,
        #[serde(rename = "Inner")]
        inner: Vec<Inner>,
        #[serde(rename = "Map")]
        map: BTreeMap<String, String>,
        #[serde(rename = "Raw")]
        raw: Option<RawJson>,
        #[serde(rename = "Maybe")]
        maybe: Option<Box<Inner>>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        #[serde(rename = "Lun")]
        lun: u8,
        #[serde(rename = "ReadOnly")]
        read_only: bool,
    }

    #[test]
    fn keys_match_regardless_of_case_at_every_level() {
        let exact = r#"{"ContainerId":"a","Inner":[{"Lun":3,"ReadOnly":true}],"Maybe":{"Lun":9}}"#;
        let folded = r#"{"containerid":"a","INNER":[{"lUN":3,"readonly":true}],"mAYBE":{"\u006cun":9}}"#;
        let expected: Outer = from_str(exact).unwrap();
        assert_eq!(expected.inner, [Inner { lun: 3, read_only: true }]);
        assert_eq!(from_str::<Outer>(folded).unwrap(), expected);
    }

    #[test]
    fn keys_that_are_data_keep_their_case() {
        let outer: Outer = from_str(r#"{"Map":{"path":"1","PATH":"2"},"raw":{"containerid":null}}"#).unwrap();
        assert_eq!(outer.map.len(), 2);
        assert_eq!(outer.raw.unwrap().get(), r#"{"containerid":null}"#);
    }

    #[test]
    fn null_is_the_empty_value() {
        let text =
            r#"{"ContainerId":null,"Inner":[{"Lun":null,"ReadOnly":null},null],"Map":null,"Raw":null,"Maybe":null}"#;
        let expected = Outer { inner: vec![Inner::default(), Inner::default()], ..Outer::default() };
        assert_eq!(from_str::<Outer>(text).unwrap(), expected);
        assert_eq!(from_str::<Outer>("null").unwrap(), Outer::default());
        let map: Outer = from_str(r#"{"Map":{"a":null}}"#).unwrap();
        assert_eq!(map.map["a"], "");
    }

    #[test]
    fn a_key_of_a_message_may_occur_once() {
        for twice in [r#"{"ContainerId":"a","ContainerId":"b"}"#, r#"{"ContainerId":"a","containerid":"b"}"#] {
            let error = from_str::<Outer>(twice).unwrap_err();
            assert!(error.to_string().contains("duplicate field `ContainerId`"), "{error}");
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        for bad in [
            "[]",
            r#"["a"]"#,
            r#""text""#,
            r#"{"ContainerId":1}"#,
            r#"{"Inner":{}}"#,
            r#"{"Inner":[[3,true]]}"#,
            r#"{"Inner":[{"Lun":256}]}"#,
            r#"{"Inner":[{"Lun":-1}]}"#,
            r#"{"Inner":[{"Lun":1.0}]}"#,
            r#"{"Inner":[{"Lun":1e400}]}"#,
            r#"{"Inner":[{"Lun":99999999999999999999999999}]}"#,
            r#"{"ContainerId":"\ud800"}"#,
            r#"{"ContainerId":"a}"#,
        ] {
            assert!(from_str::<Outer>(bad).is_err(), "{bad}");
        }
    }
}
