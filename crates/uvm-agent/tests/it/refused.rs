//! What an agent does not serve, or cannot read.

use crate::support::{Host, Over, ZERO, message, over_each_link, request};

over_each_link! {
    unknown_messages_are_answered_never_ignored
    a_container_that_is_not_there_is_not_found
    a_body_that_does_not_decode_fails_only_its_request
    an_activity_that_is_no_guid_is_not_repeated
    the_answer_to_a_large_request_that_does_not_decode_is_small
    the_answer_about_a_long_name_is_small
    a_size_that_cannot_be_ends_the_connection_and_no_more
    messages_may_come_in_any_pieces
}

async fn unknown_messages_are_answered_never_ignored(over: Over) {
    let mut host = Host::negotiated(over).await;
    let body =
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#;
    for (header, answer) in [
        // Numbers without a meaning, one that is reserved, and one that only agents of 2021 know.
        ("01 00 10 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2010_0001),
        ("01 0f 10 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2010_0f01),
        ("01 10 10 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2010_1001),
        ("01 ff 1f 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x201f_ff01),
        // Another version byte; another category; a service of Windows guests.
        ("02 02 10 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2010_0202),
        ("01 02 30 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2030_0201),
        ("01 01 20 10 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2020_0101),
        // No requests at all: a notification, a response, and what is neither.
        ("01 01 10 30 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2010_0101),
        ("01 02 10 20 | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2010_0201),
        ("ff ff ff ff | 7a 00 00 00 | 01 00 00 00 00 00 00 80", 0x2fff_ffff),
    ] {
        host.send(&message(header, body)).await;
        // Ids come back as the 64 bits they are.
        let failure = host.expect_failure(answer, 0x8000_0000_0000_0001, 0x8000_4001).await;
        assert_eq!(failure.json()["ActivityId"], "00000000-0000-0000-0000-000000000000");
        assert_eq!(failure.json().get("Errno"), None);
    }
    // Nobody reads the body of what nobody knows.
    host.send(&message("01 10 10 10 | 13 00 00 00 | 02 00 00 00 00 00 00 00", "\u{1}{\"")).await;
    assert_eq!(host.expect_failure(0x2010_1001, 2, 0x8000_4001).await.json().get("ActivityId"), None);
}

async fn a_container_that_is_not_there_is_not_found(over: Over) {
    let mut host = Host::negotiated(over).await;
    for (request, number) in [
        (
            message(
                "01 03 10 10 | 58 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            "03",
        ),
        (
            message(
                "01 04 10 10 | 58 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            "04",
        ),
        (
            message(
                "01 05 10 10 | c7 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","Settings":{"ProcessParameters":"{\"CreateStdOutPipe\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#,
            ),
            "05",
        ),
        (
            message(
                "01 06 10 10 | 7f 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":1,"TimeoutInMs":4294967295}"#,
            ),
            "06",
        ),
        (
            message(
                "01 07 10 10 | 66 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":1}"#,
            ),
            "07",
        ),
        (
            message(
                "01 08 10 10 | 7b 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","ProcessId":1,"Height":1,"Width":1}"#,
            ),
            "08",
        ),
        (
            message(
                "01 09 10 10 | 88 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","Query":"{\"PropertyTypes\":[\"ProcessList\"]}"}"#,
            ),
            "09",
        ),
        (
            message(
                "01 0d 10 10 | 58 00 00 00 | 01 00 00 00 00 00 00 00",
                r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
            ),
            "0d",
        ),
    ] {
        host.send(&request).await;
        // Byte for byte what the originals of both years answer.
        host.expect(
            &format!("01 {number} 10 20 | fa 00 00 00 | 01 00 00 00 00 00 00 00"),
            r#"{"Result":-1070137074,"ActivityId":"00000000-0000-0000-0000-000000000000","ErrorMessage":"HRESULT: 0xc037010e","ErrorRecords":[{"Result":-1070137074,"Message":"HRESULT: 0xc037010e","ModuleName":"gcs","FileName":"","Line":4294967295}]}"#,
        )
        .await;
    }
    // But to start one does nothing and always succeeds.
    host.send(&message(
        "01 02 10 10 | 58 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    ))
    .await;
    host.expect(
        "01 02 10 20 | 50 00 00 00 | 02 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    )
    .await;
}

async fn a_body_that_does_not_decode_fails_only_its_request(over: Over) {
    let mut host = Host::negotiated(over).await;
    for request in [
        message("01 02 10 10 | 10 00 00 00 | 03 00 00 00 00 00 00 00", ""),
        message("01 02 10 10 | 11 00 00 00 | 03 00 00 00 00 00 00 00", "{"),
        message("01 02 10 10 | 12 00 00 00 | 03 00 00 00 00 00 00 00", "[]"),
        message("01 02 10 10 | 21 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":7}"#),
        message(
            "01 02 10 10 | 7c 00 00 00 | 03 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"} x"#,
        ),
        message(
            "01 02 10 10 | 79 00 00 00 | 03 00 00 00 00 00 00 00",
            r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000""#,
        ),
    ] {
        host.send(&request).await;
        let failure = host.expect_failure(0x2010_0201, 3, 0xc037_010d).await;
        assert_eq!(failure.json().get("ActivityId"), None, "it was not read: {}", failure.body);
    }
    host.send(&message("01 02 10 10 | 14 00 00 00 | 03 00 00 00 00 00 00 00", "{}\n ")).await;
    host.expect("01 02 10 20 | 1c 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"Result":0}"#).await;
}

async fn an_activity_that_is_no_guid_is_not_repeated(over: Over) {
    let mut host = Host::negotiated(over).await;
    for request in [
        message("01 02 10 10 | 34 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"c1","ActivityId":""}"#),
        message("01 02 10 10 | 35 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"ContainerId":"c1","ActivityId":"x"}"#),
    ] {
        host.send(&request).await;
        host.expect("01 02 10 20 | 1c 00 00 00 | 03 00 00 00 00 00 00 00", r#"{"Result":0}"#).await;
    }
    host.send(&message(
        "01 02 10 10 | 58 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"ContainerId":"c1","ActivityId":"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}"#,
    ))
    .await;
    host.expect(
        "01 02 10 20 | 50 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"Result":0,"ActivityId":"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}"#,
    )
    .await;
}

/// The original quotes the request whole, twice: its answer would be over the host's limit and end the bridge.
async fn the_answer_to_a_large_request_that_does_not_decode_is_small(over: Over) {
    let mut host = Host::negotiated(over).await;
    let body = format!("{{\"ContainerConfig\":\"{}\"}}", "x".repeat(0x10_0000 - 16 - 22));
    host.send(&message("01 01 10 10 | 00 00 10 00 | 03 00 00 00 00 00 00 00", &body)).await;
    let failure = host.expect_failure(0x2010_0101, 3, 0xc037_010d).await;
    assert!(failure.bytes.len() < 16_384, "{} bytes", failure.bytes.len());
}

async fn the_answer_about_a_long_name_is_small(over: Over) {
    let mut host = Host::negotiated(over).await;
    for (name, code) in [("x".repeat(200_000), 0x8000_4005), ("\u{1}".repeat(50_000), 0x8000_4005)] {
        let parameters = serde_json::json!({ "CommandArgs": [name] }).to_string();
        let body = serde_json::json!({
            "ContainerId": ZERO, "ActivityId": ZERO,
            "Settings": { "ProcessParameters": parameters, "VsockStdioRelaySettings": {} },
        });
        host.send(&request(0x1010_0501, 3, &body.to_string())).await;
        let failure = host.expect_failure(0x2010_0501, 3, code).await;
        assert!(failure.bytes.len() < 40_000, "{} bytes", failure.bytes.len());
    }
}

async fn a_size_that_cannot_be_ends_the_connection_and_no_more(over: Over) {
    let mut host = Host::negotiated(over).await;
    for header in [
        // Less than the header itself: the original takes 8 for 4 GiB and is dumb from then on.
        [0x01, 0x02, 0x10, 0x10, 0x08, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        [0x01, 0x02, 0x10, 0x10, 0x00, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        // 16 MiB and one byte; 4 GiB less one byte.
        [0x01, 0x02, 0x10, 0x10, 0x01, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0],
        [0x01, 0x02, 0x10, 0x10, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0],
    ] {
        host.send(&header).await;
        host.expect_end().await;
        host.pick_up().await;
        host.negotiate().await;
    }
}

async fn messages_may_come_in_any_pieces(over: Over) {
    let mut host = Host::negotiated(over).await;
    let start = message(
        "01 02 10 10 | 7a 00 00 00 | 03 00 00 00 00 00 00 00",
        r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
    );
    for byte in &start {
        host.send(std::slice::from_ref(byte)).await;
    }
    host.send(&start.repeat(100)).await;
    for _ in 0..101 {
        host.expect(
            "01 02 10 20 | 50 00 00 00 | 03 00 00 00 00 00 00 00",
            r#"{"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000"}"#,
        )
        .await;
    }
}
