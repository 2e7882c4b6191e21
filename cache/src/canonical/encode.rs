//! The serde serializer behind [`to_bytes`](super::to_bytes).

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::ser::{self, Serialize, Serializer};

use super::keys::KeyText;
use super::{Fault, MAX_DEPTH};

const NULL: u8 = 0x00;
const FALSE: u8 = 0x01;
const TRUE: u8 = 0x02;
const NATURAL: u8 = 0x03;
const NEGATIVE: u8 = 0x04;
const FLOAT: u8 = 0x05;
const STRING: u8 = 0x06;
const SEQUENCE: u8 = 0x07;
const MAP: u8 = 0x08;

/// Writes canonical bytes, and knows where in the value it is.
#[derive(Default)]
pub(super) struct Encoder {
    /// What was written so far.
    pub(super) out: Vec<u8>,
    path: Vec<Step>,
}

enum Step {
    Field(Cow<'static, str>),
    Index(u64),
}

impl Encoder {
    /// The present path, as in `with.lr[2]`.
    pub(super) fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            let dot = if text.is_empty() { "" } else { "." };
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Field(name) => write!(text, "{dot}{name}"),
                Step::Index(index) => write!(text, "[{index}]"),
            };
        }
        text
    }

    fn length(&mut self, length: u64) {
        self.out.extend_from_slice(&length.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }

    fn integer(&mut self, tag: u8, magnitude: u128) {
        self.out.push(tag);
        self.out.extend_from_slice(&magnitude.to_be_bytes());
    }

    fn enter(&mut self, step: Step) -> Result<(), Fault> {
        self.path.push(step);
        if self.path.len() > MAX_DEPTH {
            Err(Fault::TooDeep)
        } else {
            Ok(())
        }
    }

    /// Writes `value`, which sits at `step` of the value that is being written. Gives the step back.
    fn child<T: Serialize + ?Sized>(
        &mut self,
        step: Step,
        value: &T,
    ) -> Result<Option<Step>, Fault> {
        self.enter(step)?;
        value.serialize(&mut *self)?;
        Ok(self.path.pop())
    }

    /// Begins the one-entry map that an enum variant with fields is.
    fn variant(&mut self, name: &'static str) {
        self.out.push(MAP);
        self.length(1);
        self.text(name);
    }

    fn sequence(&mut self, in_variant: bool) -> Sequence<'_> {
        self.out.push(SEQUENCE);
        let count_at = self.out.len();
        self.length(0);
        Sequence {
            encoder: self,
            count_at,
            count: 0,
            in_variant,
        }
    }

    fn map(&mut self, in_variant: bool) -> Map<'_> {
        self.out.push(MAP);
        let count_at = self.out.len();
        self.length(0);
        Map {
            encoder: self,
            count_at,
            entries: Vec::new(),
            pending: None,
            in_variant,
        }
    }

    fn set_count(&mut self, count_at: usize, count: u64) {
        self.out[count_at..count_at + 8].copy_from_slice(&count.to_be_bytes());
    }
}

macro_rules! integers {
    (signed $($signed:ident: $sty:ty),*; unsigned $($unsigned:ident: $uty:ty),*) => {
        $(fn $signed(self, value: $sty) -> Result<(), Fault> {
            self.integer(if value < 0 { NEGATIVE } else { NATURAL }, u128::from(value.unsigned_abs()));
            Ok(())
        })*
        $(fn $unsigned(self, value: $uty) -> Result<(), Fault> {
            self.integer(NATURAL, u128::from(value));
            Ok(())
        })*
    };
}

impl<'a> Serializer for &'a mut Encoder {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Sequence<'a>;
    type SerializeTuple = Sequence<'a>;
    type SerializeTupleStruct = Sequence<'a>;
    type SerializeTupleVariant = Sequence<'a>;
    type SerializeMap = Map<'a>;
    type SerializeStruct = Map<'a>;
    type SerializeStructVariant = Map<'a>;

    integers!(
        signed serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128;
        unsigned serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    );

    fn serialize_bool(self, value: bool) -> Result<(), Fault> {
        self.out.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Fault> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Fault> {
        if !value.is_finite() {
            return Err(Fault::NotFinite(value));
        }
        let value = if value == 0.0 { 0.0 } else { value };
        self.out.push(FLOAT);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Fault> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Fault> {
        self.out.push(STRING);
        self.text(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<(), Fault> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        self.out.push(NULL);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Fault> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.variant(variant);
        self.child(Step::Field(Cow::Borrowed(variant)), value)?;
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'a>, Fault> {
        Ok(self.sequence(false))
    }

    fn serialize_tuple(self, _: usize) -> Result<Sequence<'a>, Fault> {
        Ok(self.sequence(false))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Sequence<'a>, Fault> {
        Ok(self.sequence(false))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Sequence<'a>, Fault> {
        self.variant(variant);
        self.enter(Step::Field(Cow::Borrowed(variant)))?;
        Ok(self.sequence(true))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'a>, Fault> {
        Ok(self.map(false))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Map<'a>, Fault> {
        Ok(self.map(false))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Map<'a>, Fault> {
        self.variant(variant);
        self.enter(Step::Field(Cow::Borrowed(variant)))?;
        Ok(self.map(true))
    }
}

/// A sequence that is being written; its count is filled in at the end.
pub(super) struct Sequence<'a> {
    encoder: &'a mut Encoder,
    count_at: usize,
    count: u64,
    in_variant: bool,
}

impl Sequence<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.encoder.child(Step::Index(self.count), value)?;
        self.count += 1;
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        self.encoder.set_count(self.count_at, self.count);
        if self.in_variant {
            self.encoder.path.pop();
        }
        Ok(())
    }
}

macro_rules! sequences {
    ($($name:ident::$method:ident),*) => {
        $(impl ser::$name for Sequence<'_> {
            type Ok = ();
            type Error = Fault;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
                self.item(value)
            }

            fn end(self) -> Result<(), Fault> {
                self.finish()
            }
        })*
    };
}

sequences!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

/// A map that is being written. Entries are written in the order they come and put in order of their keys at the end.
pub(super) struct Map<'a> {
    encoder: &'a mut Encoder,
    count_at: usize,
    /// Each entry's key, and where in the output the entry ends.
    entries: Vec<(Cow<'static, str>, usize)>,
    pending: Option<Cow<'static, str>>,
    in_variant: bool,
}

impl Map<'_> {
    fn entry<T: Serialize + ?Sized>(
        &mut self,
        key: Cow<'static, str>,
        value: &T,
    ) -> Result<(), Fault> {
        self.encoder.text(&key);
        // The key lies in the path while its value is written, and among the entries after.
        if let Some(Step::Field(key)) = self.encoder.child(Step::Field(key), value)? {
            self.entries.push((key, self.encoder.out.len()));
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        let body_at = self.count_at + 8;
        self.encoder
            .set_count(self.count_at, self.entries.len() as u64);
        if !self.entries.is_sorted_by(|a, b| a.0 < b.0) {
            let body = self.encoder.out.split_off(body_at);
            let mut start = 0;
            let mut ordered = Vec::with_capacity(self.entries.len());
            for (key, end) in self.entries {
                ordered.push((key, start..end - body_at));
                start = end - body_at;
            }
            ordered.sort_by(|a, b| a.0.cmp(&b.0));
            if let Some(twice) = ordered.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(Fault::DuplicateKey(twice[0].0.to_string()));
            }
            for (_, range) in ordered {
                self.encoder.out.extend_from_slice(&body[range]);
            }
        }
        if self.in_variant {
            self.encoder.path.pop();
        }
        Ok(())
    }
}

impl ser::SerializeMap for Map<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.pending = Some(key.serialize(KeyText)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        let key = self
            .pending
            .take()
            .ok_or_else(|| Fault::Custom("a map value came before its key".into()))?;
        self.entry(key, value)
    }

    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}

macro_rules! structs {
    ($($name:ident),*) => {
        $(impl ser::$name for Map<'_> {
            type Ok = ();
            type Error = Fault;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Fault> {
                self.entry(Cow::Borrowed(key), value)
            }

            fn end(self) -> Result<(), Fault> {
                self.finish()
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);
