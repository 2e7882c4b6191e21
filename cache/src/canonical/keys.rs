//! Map keys: whatever JSON can write as the key of an object, as its text.

use std::borrow::Cow;

use serde::ser::{Impossible, Serialize, Serializer};

use super::Fault;

/// Turns a map key into its text; refuses what has no single text form.
pub(super) struct KeyText;

macro_rules! as_text {
    ($($method:ident: $ty:ty),*) => {
        $(fn $method(self, value: $ty) -> Result<Self::Ok, Fault> { Ok(Cow::Owned(value.to_string())) })*
    };
}

macro_rules! refuse {
    ($($method:ident($($arg:ident: $ty:ty),*) -> $ok:ty = $found:literal;)*) => {
        $(fn $method(self, $($arg: $ty),*) -> Result<$ok, Fault> {
            $(let _ = $arg;)*
            Err(Fault::BadKey($found))
        })*
    };
}

impl Serializer for KeyText {
    type Ok = Cow<'static, str>;
    type Error = Fault;
    type SerializeSeq = Impossible<Self::Ok, Fault>;
    type SerializeTuple = Impossible<Self::Ok, Fault>;
    type SerializeTupleStruct = Impossible<Self::Ok, Fault>;
    type SerializeTupleVariant = Impossible<Self::Ok, Fault>;
    type SerializeMap = Impossible<Self::Ok, Fault>;
    type SerializeStruct = Impossible<Self::Ok, Fault>;
    type SerializeStructVariant = Impossible<Self::Ok, Fault>;

    as_text!(
        serialize_bool: bool, serialize_char: char, serialize_str: &str,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    );

    refuse! {
        serialize_f32(v: f32) -> Self::Ok = "a float";
        serialize_f64(v: f64) -> Self::Ok = "a float";
        serialize_bytes(v: &[u8]) -> Self::Ok = "a byte string";
        serialize_none() -> Self::Ok = "null";
        serialize_unit() -> Self::Ok = "null";
        serialize_unit_struct(name: &'static str) -> Self::Ok = "null";
        serialize_seq(len: Option<usize>) -> Self::SerializeSeq = "a sequence";
        serialize_tuple(len: usize) -> Self::SerializeTuple = "a sequence";
        serialize_tuple_struct(name: &'static str, len: usize) -> Self::SerializeTupleStruct = "a sequence";
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> Self::SerializeTupleVariant = "an enum with fields";
        serialize_map(len: Option<usize>) -> Self::SerializeMap = "a map";
        serialize_struct(name: &'static str, len: usize) -> Self::SerializeStruct = "a map";
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> Self::SerializeStructVariant = "an enum with fields";
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Self::Ok, Fault> {
        Ok(Cow::Borrowed(variant))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self::Ok, Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Self::Ok, Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Self::Ok, Fault> {
        Err(Fault::BadKey("an enum with fields"))
    }
}
