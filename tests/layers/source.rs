//! What one source file defines, binds and mentions.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// The segments of a path as written.
pub(crate) type Path = Vec<String>;

/// A name that a file takes from elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) path: Path,
    /// `pub use` and the like: others may find the name here.
    pub(crate) shown: bool,
}

/// A path somewhere in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mention {
    pub(crate) line: usize,
    pub(crate) path: Path,
}

/// What a file says, tests left out.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Items of its own.
    pub(crate) defined: BTreeSet<String>,
    /// `use`, by the name it gives.
    pub(crate) bound: BTreeMap<String, Binding>,
    /// `use ...::*`.
    pub(crate) globs: Vec<Path>,
    /// Paths in its code, and in each `use` that is private.
    pub(crate) mentions: BTreeSet<Mention>,
    /// Paths of each `use` that others see.
    pub(crate) shown: BTreeSet<Mention>,
    /// Modules in files of their own.
    pub(crate) modules: BTreeSet<String>,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> syn::Result<Self> {
        let file = syn::parse_file(text)?;
        let mut reader = Reader {
            source: Self::default(),
            inside: 0,
        };
        reader.visit_file(&file);
        Ok(reader.source)
    }
}

struct Reader {
    source: Source,
    /// Modules in this file around what is read now.
    inside: usize,
}

impl Reader {
    /// A path as the file's own module would write it. One that stays inside a module of the file means nothing outside.
    fn outer(&self, mut path: Path) -> Option<Path> {
        if self.inside == 0 {
            return Some(path);
        }
        match path.first().map(String::as_str) {
            Some("crate") => Some(path),
            Some("super") => {
                let supers = path.iter().take_while(|part| *part == "super").count();
                if supers < self.inside {
                    return None;
                }
                path.drain(..self.inside);
                path.insert(0, "self".to_owned());
                Some(path)
            }
            _ => None,
        }
    }

    fn mention(&mut self, path: Path, line: usize) {
        if let Some(path) = self.outer(path) {
            self.source.mentions.insert(Mention { path, line });
        }
    }

    fn take(&mut self, tree: &UseTree, before: &Path, shown: bool, line: usize) {
        let with = |name: String| {
            let mut path = before.clone();
            // `a::{self}` is `a`.
            if name != "self" || before.is_empty() {
                path.push(name);
            }
            path
        };
        match tree {
            UseTree::Path(part) => {
                let path = with(part.ident.to_string());
                self.take(&part.tree, &path, shown, part.ident.span().start().line);
            }
            UseTree::Group(group) => {
                for item in &group.items {
                    self.take(item, before, shown, item.span().start().line);
                }
            }
            UseTree::Name(name) => {
                let path = with(name.ident.to_string());
                let bound = path.last().cloned().unwrap_or_default();
                self.bind(bound, path, shown, line);
            }
            UseTree::Rename(name) => {
                let path = with(name.ident.to_string());
                self.bind(name.rename.to_string(), path, shown, line);
            }
            UseTree::Glob(_) => {
                if let Some(path) = self.outer(before.clone()) {
                    self.source.globs.push(path.clone());
                    let mut all = path;
                    all.push("*".to_owned());
                    self.source.mentions.insert(Mention { path: all, line });
                }
            }
        }
    }

    fn bind(&mut self, name: String, path: Path, shown: bool, line: usize) {
        let Some(path) = self.outer(path) else {
            return;
        };
        let mention = Mention {
            path: path.clone(),
            line,
        };
        if shown {
            self.source.shown.insert(mention);
        } else {
            self.source.mentions.insert(mention);
        }
        self.source.bound.insert(name, Binding { path, shown });
    }

    /// Paths in the text of a macro's call, which is no syntax tree.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Path = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end(&mut path, line);
                    }
                    if path.is_empty() {
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end(&mut path, line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.end(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.end(&mut path, line);
    }

    fn end(&mut self, path: &mut Path, line: usize) {
        if !path.is_empty() {
            self.mention(std::mem::take(path), line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = described(item);
        if attributes.iter().any(is_of_tests) {
            return;
        }
        match (name, item) {
            (Some(name), Item::Mod(module)) if module.content.is_none() && self.inside == 0 => {
                self.source.modules.insert(name);
            }
            (Some(name), _) if self.inside == 0 => {
                self.source.defined.insert(name);
            }
            _ => {}
        }
        if let Item::Mod(module) = item
            && module.content.is_some()
        {
            self.inside += 1;
            visit::visit_item(self, item);
            self.inside -= 1;
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let shown = !matches!(item.vis, Visibility::Inherited);
        self.take(&item.tree, &Vec::new(), shown, item.span().start().line);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string());
        self.mention(parts.collect(), path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    // What attributes say is text.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

fn is_of_tests(attribute: &Attribute) -> bool {
    let text = |list: &syn::MetaList| list.tokens.to_string();
    match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => list.path.is_ident("cfg") && text(list) == "test",
        syn::Meta::NameValue(_) => false,
    }
}

/// An item's attributes, and its name where it has one that a path can mean.
fn described(item: &Item) -> (&[Attribute], Option<String>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Enum(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Fn(item) => (&item.attrs, Some(item.sig.ident.to_string())),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref().map(ToString::to_string)),
        Item::Mod(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Static(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Struct(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Trait(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Type(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Union(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Impl(item) => (&item.attrs, None),
        Item::Use(item) => (&item.attrs, None),
        Item::ExternCrate(item) => (&item.attrs, None),
        Item::ForeignMod(item) => (&item.attrs, None),
        _ => (&[], None),
    }
}
