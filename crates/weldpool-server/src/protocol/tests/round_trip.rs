//! What is sent comes back, for each type and in both forms; and nothing makes the decoder panic.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use weldpool_engine::DataType;

use super::{Answer, decode, exchange, model};
use crate::protocol::Limits;

/// Elements of one type: as JSON, and as they lie in memory.
#[derive(Clone, Debug)]
struct Elements {
    data_type: DataType,
    json: Vec<Value>,
    bytes: Vec<u8>,
    count: usize,
}

macro_rules! elements {
    ($scalar:ty, $data_type:ident) => {
        vec(any::<$scalar>(), 0..40)
            .prop_map(|values| Elements {
                data_type: DataType::$data_type,
                json: values.iter().map(|value| json!(value)).collect(),
                bytes: values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
                count: values.len(),
            })
            .boxed()
    };
}

fn any_elements() -> impl Strategy<Value = Elements> {
    prop_oneof![
        vec(any::<bool>(), 0..40).prop_map(|values| Elements {
            data_type: DataType::Bool,
            json: values.iter().map(|value| json!(value)).collect(),
            bytes: values.iter().map(|value| u8::from(*value)).collect(),
            count: values.len(),
        }),
        vec(any::<String>(), 0..10).prop_map(|values| Elements {
            data_type: DataType::Bytes,
            json: values.iter().map(|value| json!(value)).collect(),
            bytes: values
                .iter()
                .flat_map(|value| [
                    &u32::try_from(value.len()).unwrap().to_le_bytes()[..],
                    value.as_bytes()
                ]
                .concat())
                .collect(),
            count: values.len(),
        }),
        elements!(u8, Uint8),
        elements!(u16, Uint16),
        elements!(u32, Uint32),
        elements!(u64, Uint64),
        elements!(i8, Int8),
        elements!(i16, Int16),
        elements!(i32, Int32),
        elements!(i64, Int64),
        elements!(f32, Fp32),
        elements!(f64, Fp64),
    ]
}

/// Types without a JSON form, and all others with any bits.
fn any_bits() -> impl Strategy<Value = Elements> {
    let numeric: Vec<DataType> = DataType::ALL
        .into_iter()
        .filter(|data_type| *data_type != DataType::Bytes)
        .collect();
    (proptest::sample::select(numeric), 0..40_usize).prop_flat_map(|(data_type, count)| {
        let bytes = count * data_type.byte_size().unwrap();
        vec(any::<u8>(), bytes).prop_map(move |bytes| Elements {
            data_type,
            json: Vec::new(),
            bytes,
            count,
        })
    })
}

/// A request with one tensor, as JSON or as a blob, and its header.
fn request(elements: &Elements, binary: bool, binary_output: bool) -> (Option<String>, Vec<u8>) {
    let mut input = json!({
        "name": "INPUT0", "datatype": elements.data_type.name(), "shape": [elements.count],
    });
    if binary {
        input["parameters"] = json!({ "binary_data_size": elements.bytes.len() });
    } else {
        input["data"] = Value::from(elements.json.clone());
    }
    let head = json!({ "inputs": [input], "parameters": { "binary_data_output": binary_output } })
        .to_string();
    if binary {
        (
            Some(head.len().to_string()),
            [head.as_bytes(), &elements.bytes].concat(),
        )
    } else {
        (None, head.into_bytes())
    }
}

/// The numbers of the only output, to the last bit: `serde_json` reads them less exactly.
fn floats(answer: &Answer) -> impl Iterator<Item = f64> {
    let text = std::str::from_utf8(&answer.body).unwrap();
    let (_, data) = text.split_once(r#""data":["#).unwrap();
    let (data, _) = data.split_once(']').unwrap();
    data.split(',')
        .filter(|number| !number.is_empty())
        .map(|number| number.parse().unwrap())
}

proptest! {
    #[test]
    fn tensors_come_back(elements in any_elements(), binary in any::<bool>(), binary_output in any::<bool>()) {
        let model = model(&[(elements.data_type, &[-1])]);
        let (header, body) = request(&elements, binary, binary_output);
        let answer = exchange(&model, header.as_deref(), &body).unwrap();
        let output = &answer.json()["outputs"][0];
        prop_assert_eq!(&output["datatype"], elements.data_type.name());
        prop_assert_eq!(&output["shape"], &json!([elements.count]));
        if binary_output {
            prop_assert_eq!(answer.blobs(), &elements.bytes);
            prop_assert_eq!(&output["parameters"]["binary_data_size"], elements.bytes.len());
        } else if elements.data_type == DataType::Fp32 {
            let bits: Vec<u8> = floats(&answer).flat_map(|value| (value as f32).to_le_bytes()).collect();
            prop_assert_eq!(bits, elements.bytes);
        } else if elements.data_type == DataType::Fp64 {
            let bits: Vec<u8> = floats(&answer).flat_map(f64::to_le_bytes).collect();
            prop_assert_eq!(bits, elements.bytes);
        } else {
            prop_assert_eq!(&output["data"], &Value::from(elements.json));
        }
    }

    #[test]
    fn any_bits_come_back(elements in any_bits()) {
        let model = model(&[(elements.data_type, &[-1])]);
        let (header, body) = request(&elements, true, true);
        let answer = exchange(&model, header.as_deref(), &body).unwrap();
        prop_assert_eq!(answer.blobs(), &elements.bytes);
        let answer = exchange(&model, Some("0"), &elements.bytes).unwrap();
        prop_assert_eq!(answer.blobs(), &elements.bytes);
    }

    #[test]
    fn no_bytes_make_it_panic(body in vec(any::<u8>(), 0..300), header in proptest::option::of(0..400_u64)) {
        let model = model(&[(DataType::Fp32, &[-1]), (DataType::Bytes, &[-1, 2])]);
        let _ = decode(&model, header.map(|length| length.to_string()).as_deref(), &body, &Limits::default());
    }

    #[test]
    fn no_change_to_a_request_makes_it_panic(
        elements in any_elements(),
        binary in any::<bool>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        shift in -3..4_i64,
    ) {
        let model = model(&[(elements.data_type, &[-1])]);
        let (header, mut body) = request(&elements, binary, true);
        for (index, byte) in changes {
            let index = index.index(body.len());
            body[index] = byte;
        }
        body.truncate(cut.index(body.len() * 2).max(1));
        let header = header.map(|length| (length.parse::<i64>().unwrap() + shift).to_string());
        let limits = Limits { tensor_bytes_max: 1 << 20, ..Limits::default() };
        if let Err(error) = decode(&model, header.as_deref(), &body, &limits) {
            prop_assert!((400..=413).contains(&error.status()), "{}", error);
        }
    }

    #[test]
    fn no_json_makes_it_panic(value in json_like()) {
        let model = model(&[(DataType::Fp32, &[-1]), (DataType::Int8, &[-1])]);
        let body = json!({ "inputs": value }).to_string();
        if let Err(error) = decode(&model, None, body.as_bytes(), &Limits::default()) {
            prop_assert!((400..=413).contains(&error.status()) || error.status() == 501, "{}", error);
        }
    }
}

/// JSON that uses the names of the protocol in the wrong places.
fn json_like() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(vec![
        "name",
        "shape",
        "datatype",
        "data",
        "parameters",
        "binary_data_size",
        "INPUT0",
        "INPUT1",
        "FP32",
        "INT8",
        "shared_memory_region",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        (-3..300_i64).prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e3..1e3_f64).prop_map(Into::into),
        word.clone().prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    // Inputs that are nearly right, with one member replaced.
    let input = (
        any::<bool>(),
        proptest::sample::select(vec!["name", "shape", "datatype", "data", "parameters"]),
        value.clone(),
    )
        .prop_map(|(keep, member, value)| {
            let mut input =
                json!({ "name": "INPUT0", "shape": [2], "datatype": "FP32", "data": [1, 2] });
            if !keep {
                input[member] = value;
            }
            input
        });
    prop_oneof![value, vec(input, 0..3).prop_map(Value::from)]
}
