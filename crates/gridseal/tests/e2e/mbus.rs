//! `gridseal decode mbus` and `encode mbus` from outside.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

const T2: &str = "434493157856341233038c2075900f002c25b30a000021924d4f2fb66e017a75002007109058475f4bc91df878b80a1b0f98b629024aac727942bfc549233c0140829b93";
const T2_KEY: &str = "000102030405060708090a0b0c0d0e0f";

struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn run(arguments: &[&str], input: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn vectors() -> Vec<toml::Table> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/lmn");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let parse = |path: PathBuf| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    let all = paths.into_iter().map(parse);
    all.filter(|vector| matches!(vector["kind"].as_str(), Some("wireless" | "wired"))).collect()
}

fn keys_file(directory: &std::path::Path) -> String {
    let path = directory.join("meters.toml");
    let text = format!(
        "[[meter]]\nid = \"12345678\"\nmanufacturer = \"ELS\"\nversion = 0x33\nmedium = \"gas\"\nkey = \"{T2_KEY}\"\nprofile = \"B\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn what_decode_prints_is_enough_to_make_every_telegram_again() {
    for vector in vectors().into_iter().filter(|vector| vector.contains_key("expect")) {
        let input = vector["input"].as_str().unwrap();
        let mut arguments = vec!["decode", "mbus", input];
        let key = vector["key"].as_str().filter(|key| !key.is_empty());
        let key: Vec<&str> = key.into_iter().flat_map(|key| ["--key", key]).collect();
        arguments.extend(&key);
        let format = vector.get("format").and_then(|format| format.as_str());
        arguments.extend(format.into_iter().flat_map(|format| ["--format", format]));
        let decoded = run(&arguments, "");
        assert_eq!((decoded.code, decoded.json()[0]["ok"].as_bool()), (0, Some(true)), "{}", decoded.out);
        let again = run(&[&["encode", "mbus", "-"], key.as_slice()].concat(), &decoded.out);
        assert_eq!((again.code, again.out.trim()), (0, input), "{}", again.err);
    }
}

#[test]
fn a_mixed_file_gives_an_object_for_each_line_and_a_summary() {
    let lines: Vec<_> = vectors().iter().map(|vector| vector["input"].as_str().unwrap().to_owned()).collect();
    let text = format!("# captured\n{}\n\nnonsense\n{T2}  # again\n", lines.join("\n"));
    let directory = scratch("mbus-mixed");
    let path = directory.join("telegrams.txt");
    std::fs::write(&path, text).unwrap();
    let keys = keys_file(&directory);
    let decoded = run(&["decode", "mbus", "--keys", &keys, "--file", path.to_str().unwrap()], "");
    assert_eq!((decoded.code, decoded.json().len()), (2, lines.len() + 2));
    for object in decoded.json() {
        let is_ok = object["ok"].as_bool().unwrap();
        assert_eq!(object.get("records").is_some(), is_ok, "a refused telegram shows no value: {object}");
        assert!(is_ok || object["error"]["code"].as_str().unwrap().starts_with("lmn."));
        assert!(is_ok || object["authenticated"] != true);
    }
    let authenticated = decoded.json().iter().filter(|object| object["authenticated"] == true).count();
    assert!(authenticated >= 2);
    let start = format!("{} telegrams: ", lines.len() + 2);
    assert!(decoded.err.starts_with(&start) && decoded.err.contains("refused: lmn."), "{}", decoded.err);
}

#[test]
fn no_flipped_bit_is_shown_as_authenticated_with_another_value() {
    let mut input = String::new();
    let bytes: Vec<u8> =
        (0..T2.len()).step_by(2).map(|at| u8::from_str_radix(&T2[at..at + 2], 16).unwrap()).collect();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped.iter().for_each(|byte| input.push_str(&format!("{byte:02x}")));
        input.push('\n');
    }
    let keys = keys_file(&scratch("mbus-flipped"));
    let whole = run(&["decode", "mbus", "--keys", &keys, T2], "").json().remove(0);
    let decoded = run(&["decode", "mbus", "--keys", &keys, "-"], &input);
    assert_eq!(decoded.json().len(), bytes.len() * 8);
    for (bit, object) in decoded.json().iter().enumerate() {
        if object["authenticated"] == true {
            // Control byte of the link, control and access of the extended link layer: no code covers them.
            assert!([1, 11, 12].contains(&(bit / 8)), "bit {bit}: {object}");
            for field in ["records", "counter", "manufacturer", "id", "version", "medium"] {
                assert_eq!(object[field], whole[field], "bit {bit}");
            }
        }
    }
}

#[test]
fn with_a_state_file_replays_are_refused_across_runs_and_without_it_none_is_kept() {
    let directory = scratch("mbus-state");
    let keys = keys_file(&directory);
    let state = directory.join("counters");
    let state = state.to_str().unwrap();
    let code = |arguments: &[&str]| {
        let run = run(&[&["decode", "mbus", "--keys", &keys, T2], arguments].concat(), "");
        (run.code, run.json()[0]["error"]["code"].as_str().map(str::to_owned))
    };
    assert_eq!(code(&[]), (0, None));
    assert_eq!(code(&[T2]), (0, None), "no counter is kept without a state file");
    assert_eq!(code(&["--state", state]), (0, None));
    assert_eq!(code(&["--state", state]), (2, Some("lmn.repeated".into())));
    let text = std::fs::read_to_string(state).unwrap();
    assert!(!text.contains(T2_KEY), "no key in the file of counters");
    std::fs::write(state, text.replace(" 2739 ", " 2740 ")).unwrap();
    assert_eq!(code(&["--state", state]), (2, Some("lmn.replay".into())));
    std::fs::write(state, text.replace(" 2739 ", " much ")).unwrap();
    let broken = run(&["decode", "mbus", "--keys", &keys, "--state", state, T2], "");
    assert_eq!((broken.code, broken.out.as_str()), (2, ""), "a broken file of counters lets nothing through");
}

#[test]
fn wrong_usage_is_said_in_one_line_with_exit_code_2_and_without_the_key() {
    let directory = scratch("mbus-usage");
    let path = directory.join("broken.toml");
    let path = path.to_str().unwrap();
    for text in [
        format!(
            "[[meter]]\nid = \"1234\"\nmanufacturer = \"ELS\"\nversion = 1\nmedium = 7\nkey = \"{T2_KEY}\"\n"
        ),
        format!("[[meter]]\nkey = \"{T2_KEY}\n"),
        format!("[[meter]]\nid = 7\nkey = {T2_KEY}\n"),
        "[[meter]]\nid = \"12345678\"\nmanufacturer = \"ELS\"\nversion = 1\nmedium = 7\nkey = \"00\"\n"
            .to_owned(),
    ] {
        std::fs::write(path, text).unwrap();
        let refused = run(&["decode", "mbus", "--keys", path, T2], "");
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{}", refused.err);
        assert!(refused.err.lines().count() == 1 && !refused.err.contains(T2_KEY), "{}", refused.err);
    }
    for arguments in [
        &["decode", "mbus"][..],
        &["decode", "mbus", "--key", "12", T2],
        &["decode", "mbus", "--format", "3f", T2],
    ] {
        let refused = run(arguments, "");
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{}", refused.err);
    }
    assert_eq!(run(&["decode", "mbus", "--keys", "/nonexistent", T2], "").code, 1);
    for input in [
        "{",
        "{}",
        "{\"ok\":false}",
        "[]",
        "7",
        "{\"manufacturer\":\"ELS\",\"id\":\"12345678\",\"version\":1,\"medium\":\"gas\",\"security\":{\"profile\":\"B\"},\"records\":[]}",
    ] {
        let refused = run(&["encode", "mbus", "--key", T2_KEY, "-"], input);
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{input}: {}", refused.err);
    }
}

#[test]
fn a_telegram_is_made_of_values_alone_and_read_back() {
    for (profile, authenticated) in [("A", serde_json::json!(false)), ("B", true.into()), ("D", true.into())]
    {
        let object = format!(
            r#"{{"manufacturer":"ELS","id":"00000042","version":1,"medium":"electricity","security":{{"profile":"{profile}"}},
            "counter":7,"records":[{{"quantity":"energy","value":-12.345,"unit":"Wh","storage":3,"tariff":2}}]}}"#
        );
        let key = "404142434445464748494a4b4c4d4e4f";
        let made = run(&["encode", "mbus", "--key", key, "-"], &object);
        assert_eq!(made.code, 0, "{}", made.err);
        let read = run(&["decode", "mbus", "--key", key, made.out.trim()], "").json().remove(0);
        assert_eq!(read["authenticated"], authenticated);
        let record = &read["records"][0];
        assert_eq!((record["value"].as_f64(), record["unit"].as_str()), (Some(-12.345), Some("Wh")));
        assert_eq!((record["storage"].as_u64(), record["tariff"].as_u64()), (Some(3), Some(2)));
        assert_eq!((read["manufacturer"].as_str(), read["id"].as_str()), (Some("ELS"), Some("00000042")));
    }
}
