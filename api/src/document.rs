//! What the `OpenAPI` document says and the framework cannot: that an object has no fields but its own, and that a key
//! may be left out.
//!
//! Such an object is marked where it is registered; in the finished text the mark becomes `"additionalProperties":
//! false`. Nothing else of the text is changed.

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};

/// The title of a schema that stands for `false`.
const MARK: &str = "no other field";

/// Says of the registered object `T` that it has no fields but its own.
pub fn close<T: Type>(registry: &mut Registry) {
    let mark = MetaSchema { title: Some(MARK.to_owned()), ..MetaSchema::ANY };
    if let Some(object) = registry.schemas.get_mut(&*T::name()) {
        object.additional_properties = Some(Box::new(MetaSchemaRef::Inline(Box::new(mark))));
    }
}

/// Whether the object `T` has a field that may not be left out.
pub fn has_required_field<T: Type>() -> bool {
    let mut registry = Registry::new();
    T::register(&mut registry);
    registry.schemas.get(&*T::name()).is_some_and(|object| !object.required.is_empty())
}

/// A text that has the document in it, with `false` for every mark.
pub fn finished(text: &str) -> String {
    let mark = format!("\"title\": \"{MARK}\"");
    let mut parts = text.split(mark.as_str());
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let brace = whole.trim_end().len().saturating_sub("{".len());
        whole.truncate(brace);
        whole.push_str("false");
        let after = part.trim_start();
        whole.push_str(after.strip_prefix('}').unwrap_or(after));
    }
    whole
}

/// A text that has the document in it, where no operation insists on its key: none is one of the alternatives.
pub fn without_need_of_keys(text: &str) -> String {
    text.replace("\"security\": [", "\"security\": [{},")
}

#[cfg(test)]
mod tests {
    use poem_openapi::Object;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Object)]
    struct Note {
        /// What it says.
        text: String,
        /// Who says it.
        #[oai(nullable)]
        by: Option<String>,
    }

    #[test]
    fn an_object_that_is_closed_takes_no_other_field() {
        let mut registry = Registry::new();
        Note::register(&mut registry);
        let before = serde_json::to_string_pretty(&registry.schemas).unwrap();
        assert_eq!(finished(&before), before);
        close::<Note>(&mut registry);
        let after = finished(&serde_json::to_string_pretty(&registry.schemas).unwrap());
        let (before, after): (Value, Value) =
            (serde_json::from_str(&before).unwrap(), serde_json::from_str(&after).unwrap());
        let mut expected = before;
        expected["Note"]["additionalProperties"] = json!(false);
        assert_eq!(after, expected);
    }

    #[test]
    fn a_body_is_required_where_one_of_its_fields_is() {
        #[derive(Object)]
        struct Wish {
            /// Where to.
            #[oai(nullable)]
            to: Option<String>,
        }

        assert!(has_required_field::<Note>());
        assert!(!has_required_field::<Wish>());
    }
}
