//! The paths of the service as its document spells them, and what each takes.
//!
//! Read once from the description of the operations, so that it cannot tell anything else than the document. Never routes:
//! a path that is found here may still be refused.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use poem::http::{HeaderValue, Method};
use poem_openapi::registry::{MetaApi, MetaOperation, MetaOperationParam, MetaParamIn};

/// Every path.
#[derive(Default)]
pub struct Paths {
    fixed: HashMap<String, KnownPath>,
    /// Those with a part that is left open.
    open: Vec<KnownPath>,
}

/// A path.
pub struct KnownPath {
    /// As the document spells it, such as `/tables/{table}`.
    pub template: Arc<str>,
    /// Its methods, as the header `Allow` has them. `HEAD` goes wherever `GET` does.
    pub allowed: HeaderValue,
    parameters: Vec<(Method, Vec<Parameter>)>,
}

/// A parameter of a query.
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Whether it may be given more than once.
    pub repeats: bool,
}

impl Paths {
    /// The paths of these operations.
    pub fn of<'a>(apis: impl IntoIterator<Item = &'a MetaApi>) -> Self {
        let mut operations: BTreeMap<&str, Vec<&MetaOperation>> = BTreeMap::new();
        for path in apis.into_iter().flat_map(|api| &api.paths) {
            operations.entry(&path.path).or_default().extend(&path.operations);
        }
        let mut paths = Self::default();
        for (template, operations) in operations {
            let Some(path) = KnownPath::new(template, &operations) else { continue };
            if template.contains('{') {
                paths.open.push(path);
            } else {
                paths.fixed.insert(template.to_owned(), path);
            }
        }
        paths
    }

    /// The path that a request asks for.
    pub fn find(&self, path: &str) -> Option<&KnownPath> {
        self.fixed.get(path).or_else(|| self.open.iter().find(|known| fits(&known.template, path)))
    }
}

impl KnownPath {
    fn new(template: &str, operations: &[&MetaOperation]) -> Option<Self> {
        let methods = operations.iter().map(|operation| match operation.method {
            Method::GET => "GET, HEAD",
            ref other => other.as_str(),
        });
        let allowed = HeaderValue::from_str(&methods.collect::<Vec<_>>().join(", ")).ok()?;
        let parameters = operations.iter().map(|operation| (operation.method.clone(), parameters(operation)));
        Some(Self { template: Arc::from(template), allowed, parameters: parameters.collect() })
    }

    /// What a query may hold; nothing where the path does not take the method.
    pub fn parameters(&self, method: &Method) -> &[Parameter] {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let found = self.parameters.iter().find(|(known, _)| known == method);
        found.map_or(&[], |(_, parameters)| parameters.as_slice())
    }
}

fn parameters(operation: &MetaOperation) -> Vec<Parameter> {
    let of_query = operation.params.iter().filter(|parameter| parameter.in_type == MetaParamIn::Query);
    let parameter = |parameter: &MetaOperationParam| Parameter {
        name: parameter.name.clone(),
        repeats: parameter.explode && parameter.schema.is_array(),
    };
    of_query.map(parameter).collect()
}

/// Whether a path has the form of a template. One that ends in a slash is routed nowhere.
fn fits(template: &str, path: &str) -> bool {
    let mut parts = template.split('/').zip(path.split('/'));
    let as_many = template.split('/').count() == path.split('/').count();
    as_many && !path.ends_with('/') && parts.all(|(wanted, given)| wanted == given || wanted.starts_with('{'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/tables/events", true)]
    #[case("/tables/%00", true)]
    #[case("/tables", false)]
    #[case("/tables/", false)]
    #[case("/tables/events/rows", false)]
    #[case("/table/events", false)]
    fn an_open_part_stands_for_one_part_of_a_path(#[case] path: &str, #[case] expected: bool) {
        assert_eq!(fits("/tables/{table}", path), expected);
    }
}
