//! The longest answers of models that refuse a request for more. Sources: "Models overview" of
//! <https://docs.anthropic.com>, "Models" of <https://platform.openai.com/docs>, "Gemini models" of
//! <https://ai.google.dev>. A model that is not here is asked for what the configuration says. Pure.

/// Beginnings of names and the most tokens of an answer; the longest beginning that fits counts.
const LIMITS: &[(&str, u64)] = &[
    ("claude-3-haiku", 4_096),
    ("claude-3-opus", 4_096),
    ("claude-3-sonnet", 4_096),
    ("claude-3-5-", 8_192),
    ("claude-3-7-", 64_000),
    ("claude-opus-4-0", 32_000),
    ("claude-opus-4-1", 32_000),
    ("claude-opus-4-2025", 32_000),
    ("claude-sonnet-4", 64_000),
    ("claude-haiku-4", 64_000),
    ("gpt-3.5-turbo", 4_096),
    ("gpt-4-turbo", 4_096),
    ("gpt-4o", 16_384),
    ("gpt-4o-2024-05-13", 4_096),
    ("gpt-4.1", 32_768),
    ("o1", 100_000),
    ("o3", 100_000),
    ("o4-mini", 100_000),
    ("gpt-5", 128_000),
    ("gemini-1.5-", 8_192),
    ("gemini-2.0-", 8_192),
    ("gemini-2.5-", 65_536),
    ("gemini-3-", 65_536),
];

/// What to ask for when the configuration says `most`.
pub(super) fn most_tokens(model: &str, most: u64) -> u64 {
    // A market's names begin with the maker's: `openai/gpt-4o`.
    let name = model.rsplit('/').next().unwrap_or(model);
    let fits = LIMITS.iter().filter(|(beginning, _)| name.starts_with(beginning));
    let limit = fits.max_by_key(|(beginning, _)| beginning.len()).map_or(u64::MAX, |(_, limit)| *limit);
    most.min(limit).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_counts_and_nothing_is_raised() {
        assert_eq!(most_tokens("claude-3-haiku-20240307", 16_000), 4_096);
        assert_eq!(most_tokens("openai/gpt-4o-mini", 50_000), 16_384);
        assert_eq!(most_tokens("gpt-4o-2024-05-13", 50_000), 4_096);
        assert_eq!(most_tokens("gpt-4o", 1_000), 1_000);
        assert_eq!(most_tokens("some-model", 900_000), 900_000);
        assert_eq!(most_tokens("some-model", 0), 1);
    }
}
