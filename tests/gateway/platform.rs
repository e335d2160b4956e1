//! The fakes do what their documentation says: a test of the product that is green because a fake is lenient would
//! prove nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::world::eventually;
use crate::world::http::Request;
use crate::world::telegram::{TOKEN, Telegram};

const CHAT: i64 = 5;

/// The status and the words of a refusal, or those of success.
fn outcome(telegram: &Telegram, method: &str, asked: &Value) -> (u16, String) {
    let answer = telegram.call(method, asked).unwrap();
    let body = answer.json();
    (answer.status, body["description"].as_str().unwrap_or("ok").to_owned())
}

fn updates(telegram: &Telegram, asked: &Value) -> Vec<i64> {
    let answer = telegram.call("getUpdates", asked).unwrap().ok();
    answer["result"].as_array().unwrap().iter().map(|update| update["update_id"].as_i64().unwrap()).collect()
}

#[test]
fn the_fake_telegram_enforces_what_is_documented() {
    let telegram = Telegram::start();
    telegram.chat(CHAT);
    telegram.tell("chat", &json!({ "id": -100, "topics": [55] }));
    telegram.tell("chat", &json!({ "id": 6, "blocked": true }));
    telegram.tell("chat", &json!({ "id": -7, "moved_to": -1007 }));
    let button = |data: &str| json!({ "inline_keyboard": [[{ "text": "Yes", "callback_data": data }]] });
    for (asked, status, words) in [
        (json!({ "chat_id": CHAT, "text": "<b>x</b> &lt;", "parse_mode": "HTML" }), 200, "ok"),
        (json!({ "chat_id": CHAT, "text": "<b>x", "parse_mode": "HTML" }), 400, "can't parse entities"),
        (
            json!({ "chat_id": CHAT, "text": "<b><i>x</b></i>", "parse_mode": "HTML" }),
            400,
            "can't parse entities",
        ),
        (json!({ "chat_id": CHAT, "text": "<p>x</p>", "parse_mode": "HTML" }), 400, "can't parse entities"),
        (json!({ "chat_id": CHAT, "text": "𝄞".repeat(2048) }), 200, "ok"),
        (json!({ "chat_id": CHAT, "text": "𝄞".repeat(2049) }), 400, "message is too long"),
        (json!({ "chat_id": CHAT, "text": "" }), 400, "text is empty"),
        (json!({ "chat_id": CHAT, "text": "x", "reply_markup": button(&"y".repeat(64)) }), 200, "ok"),
        (
            json!({ "chat_id": CHAT, "text": "x", "reply_markup": button(&"y".repeat(65)) }),
            400,
            "BUTTON_DATA_INVALID",
        ),
        (json!({ "chat_id": 77, "text": "x" }), 400, "chat not found"),
        (json!({ "chat_id": -100, "text": "x", "message_thread_id": 55 }), 200, "ok"),
        (json!({ "chat_id": -100, "text": "x", "message_thread_id": 1 }), 400, "message thread not found"),
        (json!({ "chat_id": 6, "text": "x" }), 403, "blocked"),
        (json!({ "chat_id": -7, "text": "x" }), 400, "upgraded"),
    ] {
        let (found, said) = outcome(&telegram, "sendMessage", &asked);
        assert!(found == status && said.contains(words), "{asked}: {found} {said}");
    }
    assert_eq!(telegram.sent(CHAT)[0]["plain"], "x <");
    assert_eq!(telegram.sent(CHAT).len(), 3, "what was refused was not sent");
    let wrong = Request::post("/bot1000:wrong/getMe", &json!({})).send(telegram.address).unwrap();
    assert_eq!(wrong.status, 401);
}

#[test]
fn the_fake_telegram_keeps_updates_until_they_are_confirmed() {
    let telegram = Telegram::start();
    telegram.tell("text", &json!({ "chat": CHAT, "from": 42, "text": "one" }));
    telegram.tell("text", &json!({ "chat": CHAT, "from": 42, "text": "two", "mention": true }));
    assert_eq!(updates(&telegram, &json!({})), [1, 2]);
    assert_eq!(updates(&telegram, &json!({ "offset": 2 })), [2]);
    telegram.tell("fault", &json!({ "kind": "duplicate" }));
    assert_eq!(updates(&telegram, &json!({})), [2, 2]);
    telegram.tell("text", &json!({ "chat": CHAT, "from": 42, "text": "three" }));
    telegram.tell("fault", &json!({ "kind": "reorder" }));
    assert_eq!(updates(&telegram, &json!({})), [3, 2]);
    assert!(updates(&telegram, &json!({ "offset": 4 })).is_empty());
    // The older of two pollers gives way.
    std::thread::scope(|scope| {
        let older = scope.spawn(|| telegram.call("getUpdates", &json!({ "timeout": 50 })).unwrap().status);
        eventually("the first poll waits", || (telegram.state()["polls"] == 6).then_some(()));
        let newer = scope.spawn(|| updates(&telegram, &json!({ "timeout": 50 })));
        assert_eq!(older.join().unwrap(), 409);
        telegram.tell("text", &json!({ "chat": CHAT, "from": 42, "text": "four" }));
        assert_eq!(newer.join().unwrap(), [4]);
    });
}

#[test]
fn the_fake_telegram_fails_as_it_is_told() {
    let telegram = Telegram::start();
    telegram.chat(CHAT);
    telegram.chat(9);
    let send = |chat: i64| telegram.call("sendMessage", &json!({ "chat_id": chat, "text": "x" }));
    telegram.tell("fault", &json!({ "kind": "status", "times": 1, "retry_after": 3, "chat": CHAT }));
    assert_eq!(send(9).unwrap().status, 200, "the other chat is well");
    let refused = send(CHAT).unwrap();
    assert_eq!((refused.status, &refused.json()["parameters"]["retry_after"]), (429, &json!(3)));
    telegram.tell("fault", &json!({ "kind": "status", "code": 500 }));
    assert_eq!(send(CHAT).unwrap().status, 500);
    assert_eq!(telegram.sent(CHAT).len(), 0);
    telegram.tell("fault", &json!({ "kind": "drop" }));
    assert!(send(CHAT).is_err());
    assert_eq!(telegram.sent(CHAT).len(), 1, "it was sent, and only the answer was lost");
    telegram.tell("fault", &json!({ "kind": "disconnect" }));
    assert!(send(CHAT).is_err());
    assert_eq!(telegram.sent(CHAT).len(), 1);
    telegram.tell("fault", &json!({ "kind": "revoked" }));
    assert_eq!(send(CHAT).unwrap().status, 401);
    telegram.tell("heal", &json!({}));
    assert_eq!(send(CHAT).unwrap().status, 200);
}

#[test]
fn the_fake_telegram_carries_buttons_and_files() {
    let telegram = Telegram::start();
    telegram.chat(CHAT);
    let markup = json!({ "inline_keyboard": [[{ "text": "Yes", "callback_data": "y" }]] });
    let sent =
        telegram.call("sendMessage", &json!({ "chat_id": CHAT, "text": "Shall I?", "reply_markup": markup }));
    let message = sent.unwrap().ok()["result"]["message_id"].clone();
    telegram.tell("click", &json!({ "chat": CHAT, "from": 42, "message_id": message, "text": "Yes" }));
    telegram.tell("document", &json!({ "chat": CHAT, "from": 42, "name": "a.txt", "content": "hello" }));
    let answer = telegram.call("getUpdates", &json!({})).unwrap().ok();
    let query = &answer["result"][0]["callback_query"];
    assert_eq!((&query["data"], &query["from"]["id"]), (&json!("y"), &json!(42)));
    let file = &answer["result"][1]["message"]["document"]["file_id"];
    let place = telegram.call("getFile", &json!({ "file_id": file })).unwrap().ok();
    let path = format!("/file/bot{TOKEN}/{}", place["result"]["file_path"].as_str().unwrap());
    assert_eq!(Request::get(&path).send(telegram.address).unwrap().text(), "hello");

    let form = "--X\r\nContent-Disposition: form-data; name=\"chat_id\"\r\n\r\n5\r\n--X\r\nContent-Disposition: \
                form-data; name=\"document\"; filename=\"r.pdf\"\r\n\r\n%PDF-\r\n-\r\n--X--\r\n";
    let mut upload = Request::post("/bot1000:fake-token/sendDocument", &json!({}));
    upload.headers = vec![("Content-Type", "multipart/form-data; boundary=X".to_owned())];
    upload.body = form.into();
    upload.send(telegram.address).unwrap().ok();
    let sent = telegram.sent(CHAT);
    assert_eq!((&sent[1]["file_name"], &sent[1]["file_size"]), (&json!("r.pdf"), &json!(8)));
}

#[test]
fn the_fake_telegram_posts_updates_until_they_are_taken() {
    let telegram = Telegram::start();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/hooks/telegram/main", listener.local_addr().unwrap());
    let asked = json!({ "url": url, "secret_token": "s3cret" });
    assert_eq!(outcome(&telegram, "setWebhook", &asked).0, 200);
    assert_eq!(outcome(&telegram, "getUpdates", &json!({})).0, 409);
    telegram.tell("text", &json!({ "chat": CHAT, "from": 42, "text": "one" }));
    for status in ["503 Busy", "200 OK"] {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0);
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["message"]["text"], "one");
        assert!(
            head.starts_with("POST /hooks/telegram/main ") && head.contains("Token: s3cret\r\n"),
            "{head}"
        );
        write!(stream.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
    eventually("the update was taken", || (telegram.state()["waiting"] == 0).then_some(()));
}
