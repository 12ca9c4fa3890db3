//! The text of a `--resources` file: it is in force as a whole, or what is wrong is said in one line. What is in force says
//! the same again when it is written as a file.
#![no_main]

use calico_api::yaml::to_json;
use calico_datastore::resources::read_anything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let resources = match read_anything(text) {
        Ok(resources) => resources,
        Err(error) => return assert!(!error.is_empty() && !error.contains('\n'), "{error:?}"),
    };
    let written: String = resources.values().map(|value| format!("---\n{}\n", to_json(value))).collect();
    match read_anything(&written) {
        Ok(again) => assert_eq!(again, resources, "written as\n{written}"),
        Err(error) => panic!("written as\n{written}\n{error}"),
    }
});
