//! From a conversation with images to what the model takes: token ids, labels, positions, patches.

mod encoded;
mod files;
pub(crate) mod images;
pub mod pixels;
pub mod positions;
pub mod resize;
pub mod template;
pub mod text;
mod vocabulary;

use std::path::Path;
use std::sync::Arc;

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::{RgbImage, Tokenizer};

use crate::family::Family;
pub use dcsft_vlm::model::{Message, Part, Role};
pub use encoded::{Encode, Encoded};
pub use files::Files;
pub(crate) use images::CHANNELS;
pub use images::{Grid, ImageRules, Images, Patches, Positions};
pub use pixels::{ImageSettings, PatchSizes};
pub use resize::{Filter, Resampling, SmartResize};
pub use template::ChatTemplate;
pub use text::HubTokenizer;

/// The text and image side of a checkpoint.
#[derive(Clone, Debug)]
pub struct Processor {
    files: Files,
    tokenizer: HubTokenizer,
    template: ChatTemplate,
    images: Arc<dyn Images>,
    image_token: u32,
    refused_tokens: Vec<u32>,
}

/// All of [`Encoded`] but the pixels.
struct Layout {
    ids: Vec<u32>,
    labels: Vec<Option<u32>>,
    positions: [Vec<u32>; 3],
    next_position: u32,
}

impl Processor {
    /// Reads a checkpoint's tokenizer, chat template and image settings.
    ///
    /// # Errors
    /// [`VlmError::Io`] or [`VlmError::Config`] with the file and what is wrong with it.
    pub fn load(dir: &Path, family: &dyn Family) -> Result<Self, VlmError> {
        let files = Files::load(dir)?;
        let template = ChatTemplate::find(&files)?;
        let lead = template.lead();
        let tokenizer = HubTokenizer::load(&files, family.decoder().config.vocab, lead)?;
        let facts = family.facts();
        Ok(Self {
            images: family.images(&files, Some(&|text| tokenizer.encode(text)))?,
            image_token: facts.image_token,
            refused_tokens: facts.refused_tokens.clone(),
            tokenizer,
            template,
            files,
        })
    }

    /// Looks at the settings files alone: images, tokenizer, which template.
    ///
    /// # Errors
    /// As [`Processor::load`].
    pub fn check_settings(dir: &Path, family: &dyn Family) -> Result<(), VlmError> {
        let files = Files::load_settings(dir)?;
        vocabulary::check_settings(&files)?;
        ChatTemplate::find(&files)?;
        family.images(&files, None).map(drop)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &HubTokenizer {
        &self.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// How images are prepared.
    pub fn images(&self) -> &dyn Images {
        &*self.images
    }

    /// The same, to be kept without the processor.
    pub fn image_rules(&self) -> ImageRules {
        ImageRules::new(&self.images)
    }

    /// The same with other limits of an image's area in pixels, where they are given.
    ///
    /// # Errors
    /// As [`Images::with_pixels`].
    pub fn with_pixels(mut self, min: Option<usize>, max: Option<usize>) -> Result<Self, VlmError> {
        self.set_pixels(min, max)?;
        Ok(self)
    }

    /// Sets other limits of an image's area in pixels, where they are given.
    ///
    /// # Errors
    /// As [`Images::with_pixels`].
    pub fn set_pixels(&mut self, min: Option<usize>, max: Option<usize>) -> Result<(), VlmError> {
        if min.is_some() || max.is_some() {
            self.images = self.images.with_pixels(min, max)?;
        }
        Ok(())
    }

    /// Writes the files that were read, byte for byte, into `dir`.
    ///
    /// # Errors
    /// [`VlmError::Io`] with the path.
    pub fn save(&self, dir: &Path) -> Result<(), VlmError> {
        self.files.save(dir)
    }

    /// Encodes a conversation; `images` are those of its [`Part::Image`], in order.
    ///
    /// # Errors
    /// [`VlmError::TooLong`] where it does not fit `max_tokens`: nothing is ever cut off. [`VlmError::Config`]:
    /// another number of images than places for them, an image that cannot be resized, image or video tokens in
    /// a text, whatever the chat template raises, an answer whose tokens the template hides.
    pub fn encode(
        &self,
        messages: &[Message],
        images: &[RgbImage],
        options: &Encode,
    ) -> Result<Encoded, VlmError> {
        let sizes: Vec<(u32, u32)> = images
            .iter()
            .map(|image| (image.width, image.height))
            .collect();
        let layout = self.layout(messages, &sizes, options)?;
        if let Some(room) = options.max_tokens
            && layout.ids.len() > room
        {
            return Err(VlmError::TooLong {
                what: "the conversation".into(),
                needed: layout.ids.len(),
                room,
            });
        }
        let images = images.iter().map(|image| self.images.patches(image));
        Ok(Encoded {
            images: images.collect::<Result<_, _>>()?,
            ids: layout.ids,
            labels: layout.labels,
            positions: layout.positions,
            next_position: layout.next_position,
        })
    }

    /// The tokens that [`Processor::encode`] would give for images of these sizes (width, height), `max_tokens`
    /// aside. No pixel is needed.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn count_tokens(
        &self,
        messages: &[Message],
        image_sizes: &[(u32, u32)],
        options: &Encode,
    ) -> Result<usize, VlmError> {
        Ok(self.layout(messages, image_sizes, options)?.ids.len())
    }

    fn layout(
        &self,
        messages: &[Message],
        sizes: &[(u32, u32)],
        options: &Encode,
    ) -> Result<Layout, VlmError> {
        let places: usize = messages.iter().map(Message::images).sum();
        if places != sizes.len() {
            return Err(VlmError::Config(format!(
                "the conversation has {places} places for images, and {} images are given",
                sizes.len()
            )));
        }
        let grids: Vec<Grid> = sizes
            .iter()
            .map(|&(width, height)| self.images.grid(height as usize, width as usize))
            .collect::<Result<_, _>>()?;
        let tokens = if options.generation_prompt && !options.train_turns {
            let text = self
                .template
                .render(messages, true, options.add_vision_id)?;
            unlabelled(self.tokenizer.encode(&text)?)
        } else {
            self.labelled(messages, options)?
        };
        self.check_pads(&tokens, places)?;
        let (ids, labels): (Vec<u32>, Vec<Option<u32>>) =
            self.expand(tokens, &grids).into_iter().unzip();
        let (positions, next_position) = self.images.positions(&ids, &grids)?;
        Ok(Layout {
            ids,
            labels,
            positions,
            next_position,
        })
    }

    /// The label of each token that [`Processor::encode`] would give.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn labels(
        &self,
        messages: &[Message],
        image_sizes: &[(u32, u32)],
        options: &Encode,
    ) -> Result<Vec<Option<u32>>, VlmError> {
        Ok(self.layout(messages, image_sizes, options)?.labels)
    }

    /// The conversation's tokens with their labels. An assistant's message is found
    /// where rendering what comes before it, with a generation prompt, ends; it is encoded by itself, as it will
    /// be generated (and as ms-swift encodes it), so no token reaches over its start.
    fn labelled(
        &self,
        messages: &[Message],
        options: &Encode,
    ) -> Result<Vec<(u32, Option<u32>)>, VlmError> {
        let &Encode {
            generation_prompt,
            add_vision_id,
            ..
        } = options;
        let whole = self
            .template
            .render(messages, generation_prompt, add_vision_id)?;
        let eos = self.tokenizer.eos();
        let end_text = self.tokenizer.token(eos).unwrap_or_default();
        let mut tokens = Vec::new();
        let mut at = 0;
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let number = index + 1;
            let answer = message.text().ok_or_else(|| {
                VlmError::Config(format!(
                    "message {number}: the assistant's messages can only be text"
                ))
            })?;
            let before = self
                .template
                .render(&messages[..index], true, add_vision_id)?;
            let trained = format!("{}{answer}{end_text}", self.tokenizer.lead());
            let start = before.len();
            let end = start + trained.len();
            if start < at || !whole.starts_with(&before) || !whole[start..].starts_with(&trained) {
                return Err(VlmError::Config(format!(
                    "message {number}: the chat template does not write the assistant's message after its \
                     generation prompt and before {end_text}, so it cannot be told what to train"
                )));
            }
            tokens.extend(unlabelled(self.tokenizer.encode(&whole[at..start])?));
            let answer = self.tokenizer.encode(&whole[start..end])?;
            tokens.extend(answer.into_iter().map(|id| (id, Some(id))));
            at = end;
        }
        tokens.extend(unlabelled(self.tokenizer.encode(&whole[at..])?));
        if !generation_prompt && let Some(last) = tokens.iter().rposition(|(id, _)| *id == eos) {
            tokens.truncate(last + 1);
        }
        Ok(tokens)
    }

    /// A pad that a user wrote into a text would take an image's features.
    fn check_pads(&self, tokens: &[(u32, Option<u32>)], places: usize) -> Result<(), VlmError> {
        let count = |wanted: u32| tokens.iter().filter(|(id, _)| *id == wanted).count();
        let written = |token: u32| self.tokenizer.token(token).unwrap_or_default();
        let found = count(self.image_token);
        if found != places {
            return Err(VlmError::Config(format!(
                "the rendered conversation has {} {found} times for {places} images; a text must not contain it",
                written(self.image_token),
            )));
        }
        match self.refused_tokens.iter().find(|token| count(**token) > 0) {
            None => Ok(()),
            Some(&token) => Err(VlmError::Config(format!(
                "the rendered conversation has {}; videos are not supported, and a text must not contain it",
                written(token),
            ))),
        }
    }

    /// Puts what stands for each image in the place of its token.
    fn expand(&self, tokens: Vec<(u32, Option<u32>)>, grids: &[Grid]) -> Vec<(u32, Option<u32>)> {
        let mut grids = grids.iter();
        let mut expanded = Vec::with_capacity(tokens.len());
        for token in tokens {
            let grid = (token.0 == self.image_token)
                .then(|| grids.next())
                .flatten();
            match grid {
                None => expanded.push(token),
                Some(grid) => {
                    let ids = self.images.expansion(*grid).into_iter();
                    expanded.extend(ids.map(|id| (id, None)));
                }
            }
        }
        expanded
    }
}

fn unlabelled(ids: Vec<u32>) -> Vec<(u32, Option<u32>)> {
    ids.into_iter().map(|id| (id, None)).collect()
}
