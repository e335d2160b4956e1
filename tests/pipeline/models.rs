//! The fake providers of models themselves: what they let pass, what they refuse, and that an ordered fault is one.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::world::Models;
use crate::world::http::{Answer, Request};

/// The least that each dialect takes: path and body.
fn asked() -> [(&'static str, &'static str, Value); 4] {
    let message = json!([{"role": "user", "content": "hi"}]);
    [
        (
            "messages",
            "/v1/messages",
            json!({"model": "m", "max_tokens": 9, "stream": true, "messages": message}),
        ),
        ("chat", "/openai/v1/chat/completions", json!({"model": "m", "stream": true, "messages": message})),
        (
            "responses",
            "/backend-api/codex/responses",
            json!({"model": "m", "stream": true, "store": false, "instructions": "s", "input": message}),
        ),
        (
            "gemini",
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
        ),
    ]
}

fn send(to: SocketAddr, path: &str, body: &Value) -> std::io::Result<Answer> {
    Request::post(path, body).header("anthropic-version", "2023-06-01").send(to)
}

#[test]
fn the_fake_speaks_four_dialects_and_keeps_what_it_was_asked() {
    let models = Models::start();
    for (dialect, path, body) in asked() {
        let said = send(models.address, path, &body).unwrap();
        let pieces: String = said.text().split("\n\n").filter_map(text_of).collect();
        assert_eq!((said.status, pieces.as_str()), (200, "fake-models received: hi"), "{dialect}");
        models.will(&json!({"text": "x", "calls": [{"name": "t", "input": {"a": 1}}], "thoughts": 1}));
        let said = send(models.address, path, &body).unwrap().text();
        assert!(said.contains(r#""t""#), "{said}");
    }
    assert_eq!(models.refused(), Vec::<String>::new());
    let kept = models.requests();
    assert_eq!(kept.len(), 8);
    assert_eq!((&kept[0]["dialect"], &kept[0]["ended"]), (&json!("messages"), &json!("whole")));
    assert_eq!(kept[6]["query"], "alt=sse");
}

/// The text that an event of any dialect adds.
fn text_of(event: &str) -> Option<String> {
    let data: Value = serde_json::from_str(event.lines().last()?.strip_prefix("data: ")?).ok()?;
    let places = ["/delta/text", "/choices/0/delta/content", "/delta", "/candidates/0/content/parts/0/text"];
    places.iter().find_map(|place| data.pointer(place)?.as_str().map(str::to_owned))
}

#[test]
fn the_fake_refuses_what_the_providers_refuse() {
    let models = Models::start();
    let [messages, chat, responses, gemini] = asked();
    let call = json!({"type": "tool_use", "id": "a", "name": "t", "input": {}});
    let call_of_chat = json!({"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}});
    let tool_of_responses =
        json!({"type": "function", "name": "t", "parameters": {"type": "object", "properties": {"x": {}}}});
    let schema = |schema: Value| json!([{"functionDeclarations": [{"name": "t", "description": "d", "parameters": schema}]}]);
    let cases = [
        (
            &messages,
            "messages",
            json!([{"role": "user", "content": [{"type": "text", "text": ""}]}]),
            "non-whitespace",
        ),
        (
            &messages,
            "messages",
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call]}, {"role": "user", "content": "y"}]),
            "without `tool_result`",
        ),
        (
            &messages,
            "messages",
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t"}]}]),
            "input",
        ),
        (&messages, "stream_options", json!({}), "Extra inputs"),
        (&messages, "system", json!([{"type": "text", "text": ""}]), "non-whitespace"),
        (
            &chat,
            "messages",
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call_of_chat]}]),
            "must be followed by tool messages",
        ),
        (
            &chat,
            "messages",
            json!([{"role": "tool", "tool_call_id": "a", "content": "x"}]),
            "preceeding message",
        ),
        (&chat, "messages", json!([{"role": "assistant", "content": null}]), "expected a string"),
        (&chat, "tool_choice", json!("none"), "only allowed when 'tools'"),
        (&responses, "store", json!(true), "Store must be set to false"),
        (&responses, "max_output_tokens", json!(9), "Unsupported parameter"),
        (&responses, "tools", json!([tool_of_responses]), "Invalid schema"),
        (
            &responses,
            "input",
            json!([{"type": "function_call_output", "call_id": "a", "output": "x"}]),
            "No tool call found",
        ),
        (
            &responses,
            "input",
            json!([{"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}]),
            "could not be verified",
        ),
        (&gemini, "tools", schema(json!({"type": "object", "properties": {}})), "non-empty for OBJECT"),
        (&gemini, "tools", schema(json!({"type": "object", "additionalProperties": false})), "Unknown name"),
        (
            &gemini,
            "contents",
            json!([{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": [{"functionCall": {"name": "t"}}]}]),
            "user turn",
        ),
        (&gemini, "contents", json!([{"role": "user", "parts": [{"text": ""}]}]), "one initialized field"),
        (&gemini, "stream", json!(true), "Extra inputs"),
    ];
    for ((_, path, body), field, value, words) in &cases {
        let mut body = body.clone();
        body[*field] = value.clone();
        let answer = send(models.address, path, &body).unwrap();
        assert_eq!(answer.status, 400, "{body}");
        assert!(models.refused().last().unwrap().contains(*words), "{body}: {}", answer.text());
    }
    let bare = Request::post(messages.1, &messages.2).send(models.address).unwrap();
    assert!(bare.status == 400 && bare.text().contains("anthropic-version"));
    models.tell("key", &json!({"key": "k"}));
    assert_eq!(send(models.address, chat.1, &chat.2).unwrap().status, 401);
    let with_key = Request::post(chat.1, &chat.2).token("k").send(models.address).unwrap();
    assert_eq!(with_key.status, 200);
}

#[test]
fn an_ordered_fault_is_one() {
    let models = Models::start();
    for (_, path, body) in asked() {
        let ask = || send(models.address, path, &body);
        let fault = |kind: &str| models.will(&json!({"text": "hello", "fault": kind}));
        let whole = models.say("hello").requests().len();
        let whole = (whole, ask().unwrap().text()).1;
        models.will(&json!({"fault": "status", "status": 429, "retry_after": 3}));
        let refused = ask().unwrap();
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("3")));
        for broken in ["cut", "close"] {
            fault(broken);
            assert!(ask().is_err(), "{broken}");
        }
        fault("unfinished");
        let unfinished = ask().unwrap().text();
        assert!(unfinished.len() < whole.len());
        fault("error");
        assert!(ask().unwrap().text().contains("ordered by the test"));
        fault("garbage_event");
        assert!(ask().unwrap().text().ends_with("data: {\"type\":\n\n"));
        fault("empty");
        assert_eq!(ask().unwrap().text(), "");
        fault("gzip");
        let packed = ask().unwrap();
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        assert!(packed.body.starts_with(&[0x1f, 0x8b, 8]));
        models.will(&json!({"text": "hello", "fault": "huge", "bytes": 1000}));
        assert!(ask().unwrap().body.len() > 1000);
    }
}

#[test]
fn a_held_answer_waits_and_a_client_that_goes_is_seen() {
    let models = Models::start();
    let [_, (_, path, body), ..] = asked();
    models.will(&json!({"text": "hello", "fault": "hold"}));
    let address = models.address;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| send(address, path, &body).unwrap().text());
        models.wait(1, 0);
        models.tell("go", &json!({}));
        assert!(asking.join().unwrap().ends_with("data: [DONE]\n\n"));
    });
    models.will(&json!({"text": "hello", "fault": "silence"}));
    let left = Request::post(path, &body).open(address).unwrap();
    models.wait(2, 0);
    drop(left);
    models.wait(2, 1);
    assert_eq!(models.requests()[1]["ended"], "gone");
}
