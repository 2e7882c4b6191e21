//! A tokenizer of words and single characters.

use std::collections::BTreeMap;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::Tokenizer;
use serde::{Deserialize, Serialize};

const PAD: &str = "<pad>";
const EOS: &str = "<eos>";

/// Writes a text as the longest known words and, between them, as single characters.
///
/// A word counts only where it stands alone: at the text's ends or between spaces, which then belong to it.
/// Ids: padding 0, end 1, the words, the characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vocabulary", into = "Vocabulary")]
pub(super) struct WordCharTokenizer {
    words: Vec<String>,
    characters: Vec<char>,
    /// Word to id, the longest words first.
    by_length: Vec<(String, u32)>,
    by_character: BTreeMap<char, u32>,
}

/// A tokenizer as it is written to a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vocabulary {
    special: Vec<String>,
    words: Vec<String>,
    characters: String,
}

impl WordCharTokenizer {
    /// A tokenizer of these words and characters.
    ///
    /// # Errors
    /// [`VlmError::Config`] if one occurs twice, or a word is empty or has spaces at its ends.
    pub(super) fn new(words: &[String], characters: &str) -> Result<Self, VlmError> {
        let mut by_length = Vec::new();
        for (index, word) in words.iter().enumerate() {
            if word.is_empty() || word.trim() != word {
                return Err(VlmError::Config(format!(
                    "words: {word:?} is not a word; leave out empty ones and spaces at the ends"
                )));
            }
            if words[..index].contains(word) {
                return Err(VlmError::Config(format!("words: {word:?} is listed twice")));
            }
            by_length.push((word.clone(), (2 + index) as u32));
        }
        by_length.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        let mut by_character = BTreeMap::new();
        for (index, character) in characters.chars().enumerate() {
            if by_character
                .insert(character, (2 + words.len() + index) as u32)
                .is_some()
            {
                return Err(VlmError::Config(format!(
                    "characters: {character:?} is listed twice"
                )));
            }
        }
        Ok(Self {
            words: words.to_vec(),
            characters: characters.chars().collect(),
            by_length,
            by_character,
        })
    }

    /// The longest word that stands alone at the start of `rest`.
    fn word_at(&self, rest: &str) -> Option<&(String, u32)> {
        self.by_length.iter().find(|(word, _)| {
            rest.strip_prefix(word.as_str())
                .is_some_and(|after| after.is_empty() || after.starts_with(' '))
        })
    }

    fn piece(&self, token: u32) -> Option<Piece<'_>> {
        let index = (token as usize).checked_sub(2)?;
        match self.words.get(index) {
            Some(word) => Some(Piece::Word(word)),
            None => self
                .characters
                .get(index - self.words.len())
                .map(|&c| Piece::Character(c)),
        }
    }
}

enum Piece<'a> {
    Word(&'a str),
    Character(char),
}

impl Tokenizer for WordCharTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, VlmError> {
        let text = text.trim();
        let mut tokens = Vec::new();
        let mut rest = text;
        let mut at_boundary = true;
        while let Some(character) = rest.chars().next() {
            if at_boundary && let Some((word, token)) = self.word_at(rest) {
                tokens.push(*token);
                rest = rest[word.len()..].trim_start_matches(' ');
                continue;
            }
            // The space before a word belongs to the word.
            let after = &rest[character.len_utf8()..];
            at_boundary = character == ' ';
            if character == ' ' && self.word_at(after).is_some() {
                rest = after;
                continue;
            }
            let Some(&token) = self.by_character.get(&character) else {
                let unknown = character.to_string();
                return Err(VlmError::Vocabulary {
                    text: text.to_owned(),
                    unknown,
                });
            };
            tokens.push(token);
            rest = after;
        }
        Ok(tokens)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        let mut text = String::new();
        let mut after_word = false;
        for piece in tokens.iter().filter_map(|&token| self.piece(token)) {
            let is_word = matches!(piece, Piece::Word(_));
            if !text.is_empty() && (is_word || after_word) {
                text.push(' ');
            }
            match piece {
                Piece::Word(word) => text.push_str(word),
                Piece::Character(character) => text.push(character),
            }
            after_word = is_word;
        }
        text
    }

    fn eos(&self) -> u32 {
        1
    }

    fn vocab_size(&self) -> usize {
        2 + self.words.len() + self.characters.len()
    }
}

impl From<WordCharTokenizer> for Vocabulary {
    fn from(tokenizer: WordCharTokenizer) -> Self {
        Self {
            special: vec![PAD.into(), EOS.into()],
            words: tokenizer.words,
            characters: tokenizer.characters.into_iter().collect(),
        }
    }
}

impl TryFrom<Vocabulary> for WordCharTokenizer {
    type Error = VlmError;

    fn try_from(vocabulary: Vocabulary) -> Result<Self, VlmError> {
        if vocabulary.special != [PAD, EOS] {
            return Err(VlmError::Config(format!(
                "special tokens must be {PAD:?} and {EOS:?}, in this order"
            )));
        }
        Self::new(&vocabulary.words, &vocabulary.characters)
    }
}

#[cfg(test)]
mod tests {
    use super::WordCharTokenizer;
    use dcsft_vlm::error::VlmError;
    use dcsft_vlm::model::Tokenizer;

    fn tokenizer(words: &[&str], characters: &str) -> WordCharTokenizer {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        WordCharTokenizer::new(&words, characters).unwrap()
    }

    #[test]
    fn words_are_one_token_and_everything_else_is_spelled() {
        let tokenizer = tokenizer(&["object?", "on"], "abcdefghijklmnopqrstuvwxyz");
        assert_eq!(tokenizer.encode("object?").unwrap(), [2]);
        let ids = tokenizer.encode("tri on sky").unwrap();
        assert_eq!(ids.len(), 3 + 1 + 3);
        assert_eq!(tokenizer.decode(&ids), "tri on sky");
        assert_eq!(
            tokenizer.encode("moon").unwrap().len(),
            4,
            "a word inside another is spelled"
        );
        assert_eq!(
            tokenizer.decode(&[4, 5, 1]),
            "ab",
            "the end token has no text"
        );
    }

    #[test]
    fn spaces_need_a_token_of_their_own_between_spelled_words() {
        let with = tokenizer(&["Name it."], " abcdery");
        let ids = with.encode("Name it. red car").unwrap();
        assert_eq!(ids.len(), 1 + 7);
        assert_eq!(with.decode(&ids), "Name it. red car");
        let error = tokenizer(&[], "abcder").encode("red car").unwrap_err();
        assert!(
            matches!(error, VlmError::Vocabulary { ref unknown, .. } if unknown == " "),
            "{error}"
        );
    }

    #[test]
    fn the_longest_phrase_wins() {
        let tokenizer = tokenizer(&["on", "on top of"], "abc");
        assert_eq!(tokenizer.encode("a on top of b").unwrap().len(), 3);
        assert_eq!(tokenizer.encode("on on top of on").unwrap(), [2, 3, 2]);
    }

    #[test]
    fn an_unknown_character_is_named() {
        let error = tokenizer(&[], "abc").encode("abX").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model's vocabulary cannot write \"abX\": no token for \"X\""
        );
    }

    #[test]
    fn doubles_are_refused() {
        assert!(WordCharTokenizer::new(&["on".into(), "on".into()], "ab").is_err());
        assert!(WordCharTokenizer::new(&[], "aba").is_err());
        assert!(WordCharTokenizer::new(&[" on".into()], "ab").is_err());
    }

    #[test]
    fn the_file_form_comes_back_equal() {
        let tokenizer = tokenizer(&["on"], "xyz");
        let text = serde_json::to_string(&tokenizer).unwrap();
        assert_eq!(
            serde_json::from_str::<WordCharTokenizer>(&text).unwrap(),
            tokenizer
        );
    }
}
