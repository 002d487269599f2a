//! Random input: nothing panics, and the split of a stream does not matter.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Runs `future` in paused time, so that every timeout passes at once.
fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn small_limits() -> Limits {
    Limits {
        header_bytes_max: 1024,
        body_bytes_max: 4096,
        decoded_bytes_max: 8192,
        drain_bytes_max: 512,
        date_header: false,
        ..Limits::default()
    }
}

/// A valid request, with the kinds of body that there are.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let path = prop_oneof![
        4 => Just("/echo"),
        1 => Just("/ignore"),
        1 => Just("/bounded"),
        1 => Just("/nothing"),
        1 => Just("/compress"),
        1 => Just("/absent")
    ];
    (path, vec(any::<u8>(), 0..300), 0..4, 1usize..40).prop_map(|(path, body, kind, size)| {
        let zip = "Accept-Encoding: gzip\r\nContent-Encoding: gzip\r\n";
        let zipped = || {
            super::super::encoding::compress(
                super::super::ContentEncoding::Gzip,
                [&body[..]].into_iter(),
            )
            .unwrap()
        };
        match kind {
            0 => get(path).into_bytes(),
            1 => post(path, "", &body),
            2 => post_chunked(path, "X-Other: value\r\n", &body, size),
            _ => post(path, zip, &zipped()),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_end_the_connection(bytes in vec(any::<u8>(), 0..2000), piece in 1usize..64) {
        block_on(talk(&bytes, piece, small_limits()));
    }

    #[test]
    fn damaged_requests_are_answered_or_dropped(
        requests in vec(request(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        piece in 1usize..64,
    ) {
        let mut input = requests.concat();
        for (index, byte) in changes {
            let position = index.index(input.len());
            input[position] = byte;
        }
        let received = block_on(talk(&input, piece, small_limits()));
        prop_assert!(received.is_empty() || received.starts_with(b"HTTP/1.1 "));
    }

    #[test]
    fn any_split_gives_the_same_answers(
        requests in vec(request(), 1..6),
        pieces in vec(1usize..200, 1..20),
    ) {
        let input = requests.concat();
        let whole = block_on(talk(&input, input.len(), small_limits()));
        let answers = all_answers(whole.clone());
        prop_assert_eq!(answers.len(), requests.len());

        let split = block_on(async {
            let mut client = Client::connect(small_limits());
            let (mut reader, mut writer) = tokio::io::split(&mut client.stream);
            let mut received = Vec::new();
            let send = async {
                let mut rest = &input[..];
                for piece in pieces.iter().cycle() {
                    let (now, later) = rest.split_at(rest.len().min(*piece));
                    writer.write_all(now).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
                writer.shutdown().await.unwrap();
            };
            let (_, result) = tokio::join!(send, reader.read_to_end(&mut received));
            result.unwrap();
            received
        });
        prop_assert_eq!(split, whole);
    }
}
