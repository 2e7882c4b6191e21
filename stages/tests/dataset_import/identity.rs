//! What a key holds of a list, and what an ID holds of a sample.

use serde_json::{Value, json};

use crate::support::on_threads;
use crate::{Folder, problem, resolve, text};

#[test]
fn the_files_of_the_key_are_the_list_and_each_image_by_its_name() {
    let folder = Folder::new();
    let records = [
        problem("cat", "a.png"),
        problem("dog", "gone.png"),
        problem("cow", "a.png"),
        problem("x", "http://y"),
    ];
    std::fs::create_dir(folder.path("lists")).unwrap();
    folder.list("lists/l.json", text(&records));
    let resolved = resolve(
        json!({"path": "lists/l.json", "image_root": "."}),
        folder.dir.path(),
    )
    .unwrap();
    assert_eq!(resolved.files.len(), 2);
    assert_eq!(
        (
            resolved.files[0].field.to_string().as_str(),
            resolved.files[0].required
        ),
        ("path", true)
    );
    let images = &resolved.files[1];
    assert_eq!(
        (images.field.to_string().as_str(), images.required),
        ("image_root", false)
    );
    let names: Vec<&str> = images.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.png", "gone.png"]);
    assert_eq!(
        std::fs::read(&images.files[0].1).unwrap(),
        std::fs::read(folder.path("a.png")).unwrap()
    );
    let limited = resolve(
        json!({"path": "lists/l.json", "limit": 1}),
        folder.dir.path(),
    )
    .unwrap();
    assert_eq!(
        limited.files[1].files,
        [("a.png".to_owned(), folder.path("lists/a.png"))]
    );
}

#[test]
fn repeated_records_have_ids_of_their_own_and_content_alone_decides() {
    let folder = Folder::new();
    let twice = folder
        .import(
            text(&[problem("cat", "a.png"), problem("cat", "a.png")]),
            json!({}),
        )
        .data();
    assert_ne!(twice.samples()[0].id, twice.samples()[1].id);
    std::fs::copy(folder.path("a.png"), folder.path("copy.png")).unwrap();
    let moved = folder
        .import(text(&[problem("cat", "copy.png")]), json!({}))
        .data();
    assert_eq!(moved.samples()[0].id, twice.samples()[0].id);
    let other = folder
        .import(text(&[problem("dog", "a.png")]), json!({}))
        .data();
    assert_ne!(other.samples()[0].id, twice.samples()[0].id);
}

#[test]
fn the_same_bytes_come_out_on_one_thread_and_on_two() {
    let folder = Folder::new();
    let names = ["a.png", "b.jpg", "gone.png", "c.webp", "cut.jpg"];
    let records: Vec<Value> = (0..1200)
        .map(|index| problem("cat", names[index % names.len()]))
        .collect();
    let import = |threads| {
        on_threads(threads, || {
            folder.import(text(&records), json!({})).run.files()
        })
    };
    assert!(import(1) == import(2), "the files differ");
}
