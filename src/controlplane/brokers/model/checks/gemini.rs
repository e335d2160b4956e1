//! Gemini, <https://ai.google.dev/api/generate-content>; Vertex AI speaks it too. The model is in the path. Pure.

use super::{Asked, Wrong, fields, list, most, not_here, outside};
use crate::contract::json::Value;

/// What of the interface is used here. `cachedContent` is the account's; `safetySettings` are the operator's to loosen.
const FIELDS: &[&str] = &["contents", "systemInstruction", "tools", "toolConfig", "generationConfig"];
const GENERATION: &[&str] =
    &["maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "thinkingConfig", "candidateCount"];
const FUNCTION: &[&str] = &["name", "description", "parameters", "parametersJsonSchema"];

pub(super) fn check(model: &str, document: Value) -> Result<Asked, Wrong> {
    fields(&document, FIELDS, "request")?;
    let mut tokens = super::MOST_OUTPUT;
    if let Some(generation) = document.get("generationConfig") {
        fields(generation, GENERATION, "generationConfig")?;
        tokens = most(generation, "maxOutputTokens")?;
        if generation.get("candidateCount").is_some_and(|count| count.as_u64() != Some(1)) {
            return Err("generationConfig: candidateCount must be 1".to_owned());
        }
    }
    if let Some(config) = document.get("toolConfig") {
        fields(config, &["functionCallingConfig"], "toolConfig")?;
    }
    for (at, tool) in document.get("tools").and_then(Value::as_array).unwrap_or_default().iter().enumerate() {
        let place = format!("tools.{at}");
        // Everything else is run by the provider: search, fetching of addresses, code.
        if let Some((other, _)) =
            tool.as_object().unwrap_or_default().iter().find(|(name, _)| name != "functionDeclarations")
        {
            return Err(not_here(&place, "a tool", other));
        }
        for function in list(tool, "functionDeclarations", &format!("{place}."))? {
            fields(function, FUNCTION, &place)?;
        }
    }
    if let Some(system) = document.get("systemInstruction") {
        content(system, "systemInstruction")?;
    }
    for (at, one) in list(&document, "contents", "")?.iter().enumerate() {
        content(one, &format!("contents.{at}"))?;
    }
    Ok(Asked { model: model.to_owned(), document, most: tokens })
}

fn content(value: &Value, place: &str) -> Result<(), Wrong> {
    fields(value, &["role", "parts"], place)?;
    for (at, part) in list(value, "parts", &format!("{place}."))?.iter().enumerate() {
        let place = format!("{place}.{at}");
        const KNOWN: &[&str] =
            &["text", "thought", "thoughtSignature", "functionCall", "functionResponse", "inlineData"];
        // The provider fetches what a `fileData` names.
        if part.get("fileData").is_some() {
            return Err(outside(&place));
        }
        fields(part, KNOWN, &place)?;
        for (key, known) in [
            ("functionCall", &["id", "name", "args"][..]),
            ("functionResponse", &["id", "name", "response"]),
            ("inlineData", &["mimeType", "data"]),
        ] {
            if let Some(inner) = part.get(key) {
                fields(inner, known, &place)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{passes, refused};
    use crate::controlplane::brokers::model::providers::Provider;

    const P: Provider = Provider::Gemini;

    #[test]
    fn what_the_agent_says_passes() {
        passes(
            P,
            r#"{"systemInstruction":{"parts":[{"text":"s"}]},"generationConfig":{"maxOutputTokens":5},
            "tools":[{"functionDeclarations":[{"name":"t","description":"d","parameters":{"type":"OBJECT"}}]}],
            "toolConfig":{"functionCallingConfig":{"mode":"NONE"}},
            "contents":[{"role":"user","parts":[{"text":"x"},{"inlineData":{"mimeType":"image/png","data":"AA=="}}]},
            {"role":"model","parts":[{"functionCall":{"name":"t","args":{}},"thoughtSignature":"s"}]},
            {"role":"user","parts":[{"functionResponse":{"name":"t","response":{"output":"r"}}}]}]}"#,
        );
    }

    #[test]
    fn what_reaches_beyond_the_answer_is_refused() {
        for (more, word) in [
            (r#","cachedContent":"c""#, "cachedContent"),
            (r#","safetySettings":[]"#, "safetySettings"),
            (r#","tools":[{"googleSearch":{}}]"#, "googleSearch"),
            (r#","tools":[{"urlContext":{}}]"#, "urlContext"),
            (r#","tools":[{"codeExecution":{}}]"#, "codeExecution"),
            (r#","tools":[{"functionDeclarations":[{"name":"t"}],"googleSearch":{}}]"#, "googleSearch"),
            (r#","generationConfig":{"candidateCount":8}"#, "candidateCount"),
            (r#","generationConfig":{"responseModalities":["IMAGE"]}"#, "responseModalities"),
            (r#","model":"other""#, "model"),
        ] {
            refused(
                P,
                &format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"x"}}]}}]{more}}}"#),
                word,
            );
        }
        for (part, word) in [
            (r#"{"fileData":{"fileUri":"https://x"}}"#, "no address"),
            (r#"{"executableCode":{}}"#, "executableCode"),
            (r#"{"functionResponse":{"name":"t","response":{},"scheduling":"x"}}"#, "scheduling"),
        ] {
            refused(P, &format!(r#"{{"contents":[{{"parts":[{part}]}}]}}"#), word);
        }
    }
}
