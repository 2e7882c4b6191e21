//! Prompts: where images stand in a question, and what of a conversation can be changed.

use dcsft_vlm::model::{Message, Part, Picture, Prompt, RgbImage, Role};

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn image(shade: u8) -> Picture {
    let image = RgbImage {
        width: 1,
        height: 1,
        pixels: vec![shade; 3].into(),
    };
    image.into()
}

#[test]
fn images_take_their_placeholders_and_those_without_go_first() {
    let content = |text: &str, images| Message::question(text, images).content;
    assert_eq!(content("what?", 0), [text("what?")]);
    assert_eq!(content("what?", 1), [Part::Image, text("what?")]);
    let around = [text("is "), Part::Image, text(" red?")];
    assert_eq!(content("is <image> red?", 1), around);
    let two = [text("compare "), Part::Image, text(" and "), Part::Image];
    assert_eq!(content("compare <image> and <image>", 2), two);
    let first = [Part::Image, text("and "), Part::Image, text("?")];
    assert_eq!(content("and <image>?", 2), first);
    let left = [text("a "), Part::Image, text(" b <image>")];
    assert_eq!(content("a <image> b <image>", 1), left);
}

#[test]
fn another_question_keeps_images_and_history() {
    let mut prompt = Prompt::question("id", vec![image(1)], Some("be brief"), "<image>what?");
    assert_eq!(
        prompt.messages[0],
        Message::text_of(Role::System, "be brief")
    );
    let before = prompt.clone();
    assert!(prompt.is_same(&before));
    prompt.ask("and where is <image>?");
    assert_eq!(prompt.text(), "and where is ?");
    assert_eq!(prompt.messages[0], before.messages[0]);
    assert_eq!(prompt.messages[1].images(), 1);
    assert!(!prompt.is_same(&before));
    prompt.validate().unwrap();
}

#[test]
fn a_place_without_a_picture_is_refused() {
    let mut prompt = Prompt::question("id", vec![image(1), image(2)], None, "which?");
    prompt.images.pop();
    assert_eq!(
        prompt.validate().unwrap_err().to_string(),
        "the conversation has 2 places for images, and 1 images are given"
    );
}
