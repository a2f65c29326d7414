//! A GGUF file's header → the model's shape.
//!
//! The layout is that of ggml's `docs/gguf.md`: magic, version, counts, then metadata pairs and
//! tensor descriptions. Only the header is read, so the beginning of a file is enough.

use super::{Cache, Shape};
use std::{
    collections::HashMap,
    io::{self, Read},
};

/// Why a GGUF header gives no shape.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It ends too early, or can't be read.
    #[error("the GGUF header can't be read")]
    Unreadable(#[from] io::Error),
    /// It isn't GGUF.
    #[error("it is not a GGUF file")]
    NotGguf,
    /// A version of before 2023, or of the other byte order.
    #[error("GGUF version {0} is not known; versions 2 and 3 are")]
    Version(u32),
    /// The header says something that no model has.
    #[error("the GGUF header is damaged: {0}")]
    Damaged(&'static str),
    /// A key without which nothing can be computed is missing.
    #[error(
        "the GGUF header has no `{0}`, so it isn't of a language model that can be planned for; give the memory it needs with --vram"
    )]
    Missing(String),
}

/// Nothing in a header is longer: vocabularies have up to some hundred thousand entries.
const MOST: u64 = 1 << 24;

/// The shape of the model whose file begins here.
pub fn read_header(reader: impl Read) -> Result<Shape, GgufError> {
    let mut header = Reader(reader);
    if &header.bytes::<4>()? != b"GGUF" {
        return Err(GgufError::NotGguf);
    }
    let version = header.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let (tensors, pairs) = (header.count()?, header.count()?);
    let mut numbers = HashMap::new();
    let mut family = String::new();
    for _ in 0..pairs {
        let key = header.string()?;
        let kind = header.u32()?;
        match header.value(kind, 0)? {
            Value::Numbers(value) => drop(numbers.insert(key, value)),
            Value::Text(text) if key == "general.architecture" => family = text,
            Value::Text(_) | Value::Other => {}
        }
    }
    let mut sums = Sums::default();
    for _ in 0..tensors {
        let name = header.string()?;
        let mut elements = 1_u64;
        for _ in 0..header.u32()?.min(8) {
            let size = header.u64()?;
            elements = elements.checked_mul(size).ok_or(GgufError::Damaged("a tensor's size"))?;
        }
        let kind = header.u32()?;
        header.u64()?;
        sums.add(&name, elements, kind);
    }
    Keys { family, numbers }.shape(&sums)
}

/// What the tensors come to.
#[derive(Default)]
struct Sums {
    parameters: u64,
    embedding: u64,
    head: u64,
    experts: u64,
    bits: f64,
}

impl Sums {
    fn add(&mut self, name: &str, elements: u64, kind: u32) {
        self.parameters += elements;
        self.bits += elements as f64 * bits(kind);
        match name {
            "token_embd.weight" => self.embedding = elements,
            "output.weight" => self.head = elements,
            name if name.contains("_exps.") => self.experts += elements,
            _ => {}
        }
    }
}

/// Bits of a number in a tensor of this type: bytes of a block over the numbers in it, from
/// ggml's table of types. One that isn't known counts as 16.
fn bits(kind: u32) -> f64 {
    match kind {
        0 | 26 => 32.0,
        2 | 12 | 20 => 4.5,
        3 => 5.0,
        6 | 13 => 5.5,
        7 => 6.0,
        8 => 8.5,
        9 => 9.0,
        10 => 2.625,
        11 | 21 => 3.4375,
        14 => 6.5625,
        15 => 9.125,
        16 => 2.0625,
        17 => 2.3125,
        18 => 3.0625,
        19 => 1.5625,
        22 => 2.5625,
        23 | 39 => 4.25,
        24 => 8.0,
        27 | 28 => 64.0,
        29 => 1.75,
        _ => 16.0,
    }
}

struct Keys {
    family: String,
    numbers: HashMap<String, Vec<u64>>,
}

impl Keys {
    fn all(&self, key: &str) -> Option<&[u64]> {
        self.numbers.get(&format!("{}.{key}", self.family)).map(Vec::as_slice)
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.all(key)?.first().copied()
    }

    fn need(&self, key: &str) -> Result<u64, GgufError> {
        self.get(key).ok_or_else(|| GgufError::Missing(format!("{}.{key}", self.family)))
    }

    fn shape(&self, sums: &Sums) -> Result<Shape, GgufError> {
        let (layers, hidden) = (self.need("block_count")?, self.need("embedding_length")?);
        let heads = self.need("attention.head_count")?.max(1);
        let key = self.get("attention.key_length").unwrap_or(hidden / heads);
        let value = self.get("attention.value_length").unwrap_or(key);
        let small = |count: u64| u32::try_from(count).map_err(|_| GgufError::Damaged("a count"));
        let mut caches: Vec<Cache> = Vec::new();
        for layer in 0..layers.min(MOST) {
            let kv_heads = self.all("attention.head_count_kv");
            let kv_heads =
                kv_heads.and_then(|all| all.get(small(layer).ok()? as usize).or(all.first()));
            let width = match self.get("attention.kv_lora_rank") {
                Some(latent) => latent + self.get("rope.dimension_count").unwrap_or(0),
                None => kv_heads.copied().unwrap_or(heads) * (key + value),
            };
            let (width, window) = (small(width)?, self.window(layer));
            // Layers without heads of their own mix by other means.
            let alike = |cache: &&mut Cache| cache.width == width && cache.window == window;
            match caches.iter_mut().find(alike) {
                _ if width == 0 => {}
                Some(cache) => cache.layers += 1,
                None => caches.push(Cache { layers: 1, width, window }),
            }
        }
        let experts = match (self.get("expert_count"), self.get("expert_used_count")) {
            (Some(all), Some(used)) if 0 < all => Some((small(all)?, small(used.min(all))?)),
            _ => None,
        };
        let idle =
            experts.map_or(0, |(all, used)| sums.experts / u64::from(all) * u64::from(all - used));
        // Without a head of its own, the embedding is multiplied with too.
        let unread = if sums.head == 0 { 0 } else { sums.embedding };
        let parameters = sums.parameters;
        Ok(Shape {
            parameters,
            active: parameters.saturating_sub(idle + unread),
            embedding: (sums.embedding + sums.head).min(parameters),
            expert_parameters: sums.experts,
            experts,
            caches,
            state: 0,
            attention_width: small(heads * (key + value) / 2)?,
            heads: small(heads)?,
            context: small(self.need("context_length")?)?,
            stored: Some(super::whole(sums.bits / 8.0)),
        })
    }

    /// The window of a layer, by the pattern of the family.
    fn window(&self, layer: u64) -> Option<u32> {
        let window = self.get("attention.sliding_window").filter(|window| 0 < *window)?;
        let is_full = match self.family.as_str() {
            "gemma3" => (layer + 1).is_multiple_of(6),
            "gemma2" | "gpt-oss" | "gpt_oss" => (layer + 1).is_multiple_of(2),
            "llama" | "phi3" => false,
            _ => true,
        };
        (!is_full).then(|| u32::try_from(window).unwrap_or(u32::MAX))
    }
}

enum Value {
    /// One number, or a list of them.
    Numbers(Vec<u64>),
    Text(String),
    Other,
}

struct Reader<R>(R);

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn count(&mut self) -> Result<u64, GgufError> {
        let count = self.u64()?;
        if count <= MOST { Ok(count) } else { Err(GgufError::Damaged("a count")) }
    }

    fn string(&mut self) -> Result<String, GgufError> {
        let length = self.count()?;
        let mut text = Vec::new();
        if (&mut self.0).take(length).read_to_end(&mut text)? as u64 != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A value of the type that a number names. Lists of lists are skipped to a small depth.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, GgufError> {
        let number = |number: u64| Ok(Value::Numbers(vec![number]));
        match kind {
            0 | 7 => number(self.bytes::<1>()?[0].into()),
            1 => number(u64::try_from(i8::from_le_bytes(self.bytes()?)).unwrap_or(0)),
            2 => number(u16::from_le_bytes(self.bytes()?).into()),
            3 => number(u64::try_from(i16::from_le_bytes(self.bytes()?)).unwrap_or(0)),
            4 => number(self.u32()?.into()),
            5 => number(u64::try_from(i32::from_le_bytes(self.bytes()?)).unwrap_or(0)),
            6 => self.bytes::<4>().map(|_| Value::Other).map_err(GgufError::from),
            8 => self.string().map(Value::Text),
            9 if depth < 4 => {
                let (kind, count) = (self.u32()?, self.count()?);
                let mut numbers = Vec::new();
                for _ in 0..count {
                    if let Value::Numbers(number) = self.value(kind, depth + 1)? {
                        numbers.extend(number);
                    }
                }
                Ok(Value::Numbers(numbers))
            }
            10 => number(self.u64()?),
            11 => number(u64::try_from(i64::from_le_bytes(self.bytes()?)).unwrap_or(0)),
            12 => self.bytes::<8>().map(|_| Value::Other).map_err(GgufError::from),
            _ => Err(GgufError::Damaged("a type of value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a header of these parts.
    #[derive(Default)]
    struct Header {
        pairs: Vec<u8>,
        pair_count: u64,
        tensors: Vec<u8>,
        tensor_count: u64,
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    impl Header {
        fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
            self.pairs.extend([&text(key), &kind.to_le_bytes()[..], value].concat());
            self.pair_count += 1;
            self
        }

        fn number(self, key: &str, number: u32) -> Self {
            self.pair(key, 4, &number.to_le_bytes())
        }

        fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32) -> Self {
            self.tensors.extend(text(name));
            self.tensors.extend(u32::try_from(dimensions.len()).unwrap().to_le_bytes());
            self.tensors.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
            self.tensors.extend(kind.to_le_bytes());
            self.tensors.extend(0_u64.to_le_bytes());
            self.tensor_count += 1;
            self
        }

        fn bytes(&self) -> Vec<u8> {
            let counts = [self.tensor_count.to_le_bytes(), self.pair_count.to_le_bytes()].concat();
            [b"GGUF", &3_u32.to_le_bytes()[..], &counts, &self.pairs, &self.tensors].concat()
        }
    }

    fn tiny() -> Header {
        Header::default()
            .pair("general.architecture", 8, &text("llama"))
            .pair(
                "tokenizer.ggml.scores",
                9,
                &[&6_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[0; 8]].concat(),
            )
            .number("llama.block_count", 2)
            .number("llama.embedding_length", 64)
            .number("llama.attention.head_count", 8)
            .number("llama.attention.head_count_kv", 2)
            .number("llama.context_length", 512)
            .tensor("token_embd.weight", &[64, 100], 1)
            .tensor("blk.0.ffn_up.weight", &[64, 128], 3)
    }

    #[test]
    fn a_header_tells_the_shape() {
        let shape = read_header(tiny().bytes().as_slice()).unwrap();
        assert_eq!((shape.parameters, shape.active), (6_400 + 8_192, 6_400 + 8_192));
        assert_eq!(shape.stored, Some(6_400 * 2 + 8_192 * 5 / 8));
        assert_eq!(shape.kv_bytes_per_token(), 2 * 2 * 2 * 8 * 2);
        assert_eq!((shape.heads, shape.context), (8, 512));
        let with_head = tiny().tensor("output.weight", &[64, 100], 1);
        let shape = read_header(with_head.bytes().as_slice()).unwrap();
        assert_eq!(shape.parameters - shape.active, 6_400, "an embedding of its own is only read");
    }

    #[test]
    fn experts_count_by_their_share() {
        let sparse = tiny()
            .number("llama.expert_count", 8)
            .number("llama.expert_used_count", 2)
            .tensor("blk.0.ffn_up_exps.weight", &[64, 10, 8], 1);
        let shape = read_header(sparse.bytes().as_slice()).unwrap();
        assert_eq!(shape.parameters - shape.active, 64 * 10 * 6);
        assert_eq!(shape.experts, Some((8, 2)));
    }

    #[test]
    fn a_header_that_is_cut_anywhere_is_an_error_and_no_panic() {
        let bytes = tiny().bytes();
        for end in 0..bytes.len() {
            assert!(read_header(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_damaged_header_is_an_error() {
        let mut huge = tiny().bytes();
        huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read_header(huge.as_slice()), Err(GgufError::Damaged(_))));
        assert!(matches!(read_header(&b"GGML...."[..]), Err(GgufError::NotGguf)));
        let mut old = tiny().bytes();
        old[4] = 1;
        assert!(matches!(read_header(old.as_slice()), Err(GgufError::Version(1))));
        let bare = Header::default().pair("general.architecture", 8, &text("bert"));
        let error = read_header(bare.bytes().as_slice()).unwrap_err();
        assert!(error.to_string().contains("`bert.block_count`"), "{error}");
    }
}
