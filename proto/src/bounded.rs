//! Messages are weighed before they are built.
//!
//! An empty message in a list is two bytes on the wire and hundreds in memory, so that a bound on the
//! bytes of a message alone leaves room for gigabytes. The codec of all our clients and servers walks a
//! message as it arrived, adds up what it will take in memory beside its texts, and refuses what is over
//! [`structure_bytes_max`] before anything of it is built. A list of which only the beginning is ever used
//! is cut off before that ([`LOG_ENTRIES_MAX`]).
//!
//! The weights follow from the descriptors. They are near what the generated code takes, not exact. What is
//! no message at all is told as the usual codec tells it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use prost::bytes::{Buf as _, Bytes};
use prost::{Message, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Entries of the log of one reply to ExecuteJob that are built; those after them are left out. More than
/// anybody writes down, so that whoever counts them sees that there were too many.
pub const LOG_ENTRIES_MAX: usize = 2_000;

/// Bytes of structure in one message of any kind but those below.
const STRUCTURE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of structure in what there are hundreds of at once: answers to HTTP, and frames of sockets.
const BRIEF_STRUCTURE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of structure in an announcement, or in claims.
const LIST_STRUCTURE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The log of a reply to ExecuteJob.
const LOG_ENTRIES_FIELD: u32 = 7;
/// Messages in messages. As many as `prost` follows.
const DEPTH_MAX: usize = 100;
/// Bytes that a piece of memory of its own takes beside what is in it.
const ALLOCATION_BYTES: usize = 16;
/// Bytes that an entry of a map takes beside itself, for the room that maps leave free.
const ENTRY_BYTES: usize = 32;

/// Bytes that a message of this type may take in memory beside its texts.
#[must_use]
pub fn structure_bytes_max(name: &str) -> usize {
    match name {
        "protocol.InitializeResponse"
        | "axwatch.v1.AnnounceRequest"
        | "protocol.Attestation"
        | "protocol.CreateAttestationRequest"
        | "protocol.GenerateAttestationRequest"
        | "protocol.GenerateAttestationResponse"
        | "protocol.BatchGenerateAttestationRequest"
        | "protocol.GetAttestationsResponse" => LIST_STRUCTURE_BYTES_MAX,
        "protocol.HTTPResponse" | "protocol.WebSocketMessage" => BRIEF_STRUCTURE_BYTES_MAX,
        _ => STRUCTURE_BYTES_MAX,
    }
}

/// Whether a message that arrived may be built: how many bytes it will take in memory beside its texts.
///
/// # Errors
/// `INVALID_ARGUMENT` with the bound. `INTERNAL`, as `prost` has it too, when it is no message.
pub fn check<M: Name>(bytes: &[u8]) -> Result<usize, Status> {
    let name = M::full_name();
    let max = structure_bytes_max(&name);
    let mut left = max;
    match SHAPES.walk(SHAPES.of(&name), bytes, 0, &mut left) {
        Ok(()) => Ok(max - left),
        Err(Fault::TooLarge) => Err(Status::invalid_argument(format!(
            "{name}: over {} in memory beside its texts; send less at once",
            if max < 1 << 20 { format!("{} KiB", max >> 10) } else { format!("{} MiB", max >> 20) }
        ))),
        Err(Fault::Malformed) => {
            Err(Status::internal(format!("{name}: what was sent is no such message")))
        }
    }
}

/// A message without the rest of a list whose beginning is enough; `None` when there is no such rest.
fn without_rest(name: &str, bytes: &[u8]) -> Option<Bytes> {
    let (list, max) = match name {
        "protocol.ExecuteJobResponse" => (LOG_ENTRIES_FIELD, LOG_ENTRIES_MAX),
        _ => return None,
    };
    let shape = SHAPES.of(name);
    let (mut kept, mut count) = (Vec::new(), 0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let before = rest;
        // What is no message, `check` says.
        let (number, _) = next_field(&mut rest, 0, |number| SHAPES.is_map(shape, number)).ok()?;
        count += usize::from(number == list);
        if number != list || count <= max {
            kept.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    (count > max).then(|| kept.into())
}

/// The usual protobuf, with [`check`] before it.
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// See [`BoundedCodec`].
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = contiguous(from)?;
        let Some(kept) = without_rest(&U::full_name(), bytes) else {
            check::<U>(bytes)?;
            return self.0.decode(from);
        };
        check::<U>(&kept)?;
        from.advance(from.remaining());
        U::decode(kept).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A message as it arrived.
///
/// # Errors
/// `INTERNAL` when it does not lie in one piece, which the transport promises.
pub fn contiguous<'a>(from: &'a DecodeBuf<'_>) -> Result<&'a [u8], Status> {
    let bytes = from.chunk();
    if bytes.len() < from.remaining() {
        return Err(Status::internal("a message lies in pieces"));
    }
    Ok(bytes)
}

/// Why a message is not built.
enum Fault {
    TooLarge,
    Malformed,
}

/// What a field adds when it is met.
struct Field {
    /// Bytes for each time.
    cost: usize,
    /// Bytes for each byte of its content: many numbers lie in one field.
    cost_of_byte: usize,
    /// The message in it.
    message: Option<usize>,
    /// It is an entry of a map.
    is_map: bool,
}

/// All message types by number, as the fields that cost anything.
struct Shapes {
    by_name: HashMap<String, usize>,
    fields: Vec<HashMap<u32, Field>>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::read);

impl Shapes {
    fn read() -> Shapes {
        let set = FileDescriptorSet::decode(super::FILE_DESCRIPTOR_SET);
        let set = set.expect("what the build encoded decodes");
        let mut types = Vec::new();
        for file in &set.file {
            collect(&format!(".{}", file.package()), &file.message_type, &mut types);
        }
        let by_name = types.iter().enumerate();
        let by_name: HashMap<_, _> = by_name.map(|(n, (name, _))| (name.clone(), n)).collect();
        let own: Vec<_> = types.iter().map(|(_, message)| own_bytes(message)).collect();
        let field = |field: &FieldDescriptorProto| {
            let message = by_name.get(field.type_name()).copied();
            let is_repeated = field.label() == Label::Repeated;
            let is_text = matches!(field.r#type(), Type::String | Type::Bytes);
            let is_map = message.is_some_and(|n| is_entry(types[n].1));
            let (cost, cost_of_byte) = match message {
                Some(n) if is_map => (own[n] + ENTRY_BYTES, 0),
                Some(n) => (own[n], 0),
                None if is_text => (if is_repeated { 24 } else { 0 } + ALLOCATION_BYTES, 0),
                None if is_repeated => (8, 8),
                None => (0, 0),
            };
            (field.number().unsigned_abs(), Field { cost, cost_of_byte, message, is_map })
        };
        let fields = types.iter().map(|(_, message)| message.field.iter().map(field).collect());
        Shapes { fields: fields.collect(), by_name }
    }

    fn of(&self, name: &str) -> usize {
        let found = self.by_name.get(&format!(".{name}"));
        *found.expect("every generated type is in the descriptors it was generated from")
    }

    fn is_map(&self, shape: usize, number: u32) -> bool {
        self.fields[shape].get(&number).is_some_and(|field| field.is_map)
    }

    fn walk(
        &self,
        shape: usize,
        mut bytes: &[u8],
        depth: usize,
        left: &mut usize,
    ) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Malformed);
        }
        while !bytes.is_empty() {
            let is_map = |number| self.is_map(shape, number);
            let (number, content) = next_field(&mut bytes, depth, is_map)?;
            let Some(field) = self.fields[shape].get(&number) else { continue };
            let of_bytes = content.map_or(0, <[u8]>::len).saturating_mul(field.cost_of_byte);
            let cost = field.cost.saturating_add(of_bytes);
            *left = left.checked_sub(cost).ok_or(Fault::TooLarge)?;
            if let (Some(message), Some(content)) = (field.message, content) {
                self.walk(message, content, depth + 1, left)?;
            }
        }
        Ok(())
    }
}

/// The next field of a message: its number, and what is in it if that may be a message. An entry of a map is
/// one of whatever wire type it says that it is: that is how `prost` reads it.
fn next_field<'a>(
    bytes: &mut &'a [u8],
    depth: usize,
    is_map: impl Fn(u32) -> bool,
) -> Result<(u32, Option<&'a [u8]>), Fault> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Fault::Malformed)?;
    let mut content = None;
    match tag & 7 {
        0..=5 if is_map(number) => {
            let length = varint(bytes)?;
            content = Some(split(bytes, length)?);
        }
        0 => drop(varint(bytes)?),
        1 => drop(split(bytes, 8)?),
        2 => {
            let length = varint(bytes)?;
            content = Some(split(bytes, length)?);
        }
        3 => skip_group(bytes, number, depth + 1)?,
        5 => drop(split(bytes, 4)?),
        _ => return Err(Fault::Malformed),
    }
    Ok((number, content))
}

/// A group: none of our messages ever had one, so that it is a field that we do not know.
fn skip_group(bytes: &mut &[u8], number: u32, depth: usize) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::Malformed);
    }
    let end = u64::from(number) << 3 | 4;
    loop {
        let mut ahead = *bytes;
        if varint(&mut ahead)? == end {
            *bytes = ahead;
            return Ok(());
        }
        next_field(bytes, depth, |_| false)?;
    }
}

fn collect<'a>(
    within: &str,
    messages: &'a [DescriptorProto],
    into: &mut Vec<(String, &'a DescriptorProto)>,
) {
    for message in messages {
        let name = format!("{within}.{}", message.name());
        collect(&name, &message.nested_type, into);
        into.push((name, message));
    }
}

fn is_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
}

/// Bytes of a message with nothing in it. Of alternatives only one is there.
fn own_bytes(message: &DescriptorProto) -> usize {
    let mut alternatives: HashMap<i32, usize> = HashMap::new();
    let mut sum = ALLOCATION_BYTES;
    for field in &message.field {
        let bytes = match (field.label(), field.r#type()) {
            // Maps are lists here; theirs are larger.
            (Label::Repeated, Type::Message) => 48,
            (Label::Repeated, _) | (_, Type::String | Type::Message) => 24,
            (_, Type::Bytes) => 32,
            _ => 8,
        };
        match field.oneof_index {
            Some(oneof) => {
                let most = alternatives.entry(oneof).or_default();
                *most = bytes.max(*most);
            }
            None => sum += bytes,
        }
    }
    sum + alternatives.values().sum::<usize>()
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Fault> {
    prost::encoding::decode_varint(bytes).map_err(|_| Fault::Malformed)
}

fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], Fault> {
    let length = usize::try_from(length).map_err(|_| Fault::Malformed)?;
    let (content, rest) = bytes.split_at_checked(length).ok_or(Fault::Malformed)?;
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct, Value};
    use tonic::Code;

    use super::*;
    use crate::protocol::{
        AttestationCommand, BatchGenerateAttestationRequest, ExecuteJobResponse, HttpHeader,
        HttpResponse, InitializeResponse, JobLogEntry, WebSocketMessage,
    };

    fn command(attributes: BTreeMap<String, Value>) -> AttestationCommand {
        AttestationCommand {
            subjects: vec!["a subject".into()],
            attributes: Some(Struct { fields: attributes }),
            ..Default::default()
        }
    }

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.into())) }
    }

    #[test]
    fn as_many_claims_as_are_taken_may_have_small_attributes() {
        let attributes = (0..33).map(|n| (format!("attribute-{n}"), text("a value")));
        let commands = vec![command(attributes.collect()); 10_000];
        let batch = BatchGenerateAttestationRequest { auth_token: String::new(), commands };
        let bytes = batch.encode_to_vec();
        assert!((8 << 20..16 << 20).contains(&bytes.len()), "{}", bytes.len());
        check::<BatchGenerateAttestationRequest>(&bytes).unwrap();
    }

    #[test]
    fn what_there_are_hundreds_of_is_light() {
        let refused = |checked: Result<usize, Status>| {
            let status = checked.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("over 256 KiB in memory"), "{status}");
        };
        let header = HttpHeader { name: "x-some-name".into(), values: vec!["a value".into(); 2] };
        let http =
            |count| HttpResponse { headers: vec![header.clone(); count], ..Default::default() };
        check::<HttpResponse>(&http(256).encode_to_vec()).unwrap();
        refused(check::<HttpResponse>(&http(3_000).encode_to_vec()));
        let frame = |count: usize| WebSocketMessage {
            headers: (0..count).map(|n| (format!("x-{n}"), "a value".into())).collect(),
            data: vec![7; 1 << 20].into(),
            ..Default::default()
        };
        check::<WebSocketMessage>(&frame(256).encode_to_vec()).unwrap();
        refused(check::<WebSocketMessage>(&frame(3_000).encode_to_vec()));
    }

    #[test]
    fn of_a_long_log_the_beginning_is_built() {
        let entry = |n| JobLogEntry { message: format!("row {n}"), ..Default::default() };
        let reply = |count| ExecuteJobResponse {
            success: true,
            log_entries: (0..count).map(entry).collect(),
            result: "the result".into(),
            permanent: true,
            ..Default::default()
        };
        let name = ExecuteJobResponse::full_name();
        for count in [0, 1, LOG_ENTRIES_MAX] {
            assert_eq!(without_rest(&name, &reply(count).encode_to_vec()), None, "{count}");
        }
        for count in [LOG_ENTRIES_MAX + 1, 500_000] {
            let bytes = reply(count).encode_to_vec();
            assert!(bytes.len() < 8 << 20, "as long as one may be");
            let kept = without_rest(&name, &bytes).unwrap();
            check::<ExecuteJobResponse>(&kept).unwrap();
            assert_eq!(ExecuteJobResponse::decode(kept).unwrap(), reply(LOG_ENTRIES_MAX));
        }
        let mut broken = reply(LOG_ENTRIES_MAX + 1).encode_to_vec();
        broken.extend([0x0a, 9]);
        assert_eq!(without_rest(&name, &broken), None);
    }

    #[test]
    fn what_is_no_message_is_told_as_any_codec_tells_it() {
        // A group with a varint, another group and a text in it, under numbers that nobody has.
        let group = [0xc3, 0x3e, 0x08, 1, 0xcb, 0x3e, 0xcc, 0x3e, 0x12, 1, 7, 0xc4, 0x3e];
        // (bytes, whether they are a message)
        let cases: [(&[u8], bool); 8] = [
            (&[], true),
            (&group, true),
            (&group[..12], false),
            // Its end is another's.
            (&[0xc3, 0x3e, 0xcc, 0x3e], false),
            // An end without a beginning.
            (&[0xc4, 0x3e], false),
            // Longer than what is there.
            (&[0x0a, 200, 1, 7], false),
            (&[0x0a], false),
            // A wire type that there is none of.
            (&[0x0e], false),
        ];
        for (bytes, is_message) in cases {
            assert_eq!(InitializeResponse::decode(bytes).is_ok(), is_message, "{bytes:?}");
            let code = check::<InitializeResponse>(bytes).err().map(|status| status.code());
            assert_eq!(code, (!is_message).then_some(Code::Internal), "{bytes:?}");
        }
        // What comes after something unknown is weighed like the rest.
        let many = [&group[..], &[0x22, 0].repeat(500_000)].concat();
        let status = check::<InitializeResponse>(&many).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    #[test]
    fn an_entry_of_a_map_is_weighed_whatever_it_says_that_it_is() {
        // One entry: a name, and a value that is a list of very many with nothing in them.
        let many = ListValue { values: vec![Value { kind: None }; 1_500_000] };
        let entry = BTreeMap::from([("x".to_owned(), Value { kind: Some(Kind::ListValue(many)) })]);
        let fields = Struct { fields: entry.into_iter().collect() }.encode_to_vec();
        for wire_type in 0..=7 {
            let fields = [&[1 << 3 | wire_type], &fields[1..]].concat();
            let mut bytes = vec![0x32];
            prost::encoding::encode_varint(fields.len() as u64, &mut bytes);
            bytes.extend(fields);
            let is_message = AttestationCommand::decode(&bytes[..]).is_ok();
            assert_eq!(is_message, wire_type < 6, "{wire_type}");
            let code = check::<AttestationCommand>(&bytes).unwrap_err().code();
            let expected = if is_message { Code::InvalidArgument } else { Code::Internal };
            assert_eq!(code, expected, "{wire_type}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value { kind: None }),
            any::<f64>().prop_map(|n| Value { kind: Some(Kind::NumberValue(n)) }),
            "[a-z]{0,9}".prop_map(|word| text(&word)),
        ];
        leaf.prop_recursive(8, 40, 3, |inner| {
            prop::collection::vec(inner, 0..3)
                .prop_map(|values| Value { kind: Some(Kind::ListValue(ListValue { values })) })
        })
    }

    /// The same in so many lists.
    fn nested(value: Value, depth: usize) -> Value {
        (0..depth).fold(value, |value, _| Value {
            kind: Some(Kind::ListValue(ListValue { values: vec![value] })),
        })
    }

    proptest! {
        /// The walk is a scale, and never has an opinion of its own on what a message is.
        #[test]
        fn what_prost_takes_is_no_malformed_message(
            values in prop::collection::btree_map("[a-z]{0,9}", any_value(), 0..5),
            depth in 0_usize..60,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let values = values.into_iter().map(|(name, value)| (name, nested(value, depth)));
            let mut bytes = command(values.collect()).encode_to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let code = check::<AttestationCommand>(&bytes).err().map(|status| status.code());
            if AttestationCommand::decode(&bytes[..]).is_ok() {
                prop_assert_eq!(code, None);
            }
        }
    }
}
