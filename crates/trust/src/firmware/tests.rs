use gridseal_crypto::{
    Key, SigningKey,
    role::{FirmwareSecond, FirmwareSigning},
};

use super::*;

const IDENTIFIER: &[u8] = b"application 2";
const CONTENTS: &[u8] = b"machine code";

struct Maker {
    key: SigningKey<FirmwareSigning>,
    second: SecondSigner<FirmwareSecond>,
}

impl Maker {
    fn new(seed: u8) -> Self {
        let key = SigningKey::new(&Key::take(&mut [seed; 32])).expect("a scalar");
        Self { key, second: SecondSigner::new(&Key::take(&mut [seed; 32])).expect("a seed") }
    }

    fn trust(&self) -> FirmwareTrust {
        FirmwareTrust {
            key: self.key.public(),
            second: Digest(self.second.public().id()),
            model: "EM-1".into(),
        }
    }

    fn image(&self, model: &str, version: u32) -> Vec<u8> {
        let draft = FirmwareDraft { model, version, identifier: IDENTIFIER, issued: UtcTime(1_800_000_000) };
        sign_image(draft, CONTENTS, (&self.key, &self.second)).expect("signs").expect("sound")
    }
}

#[test]
fn an_image_with_both_signatures_is_taken() {
    let maker = Maker::new(7);
    let image = maker.image("EM-1", 2);
    for active in [0, 1, 2] {
        let verified = maker.trust().verify(&image, IDENTIFIER, active).expect("good");
        assert_eq!((verified.version, verified.contents), (2, CONTENTS));
        assert_eq!(Some(verified.signature), signature(&image));
    }
}

#[test]
fn s6_each_reason_to_refuse_an_image_has_its_name() {
    let (maker, other) = (Maker::new(7), Maker::new(8));
    let image = maker.image("EM-1", 2);
    let refusal =
        |image: &[u8], trust: &FirmwareTrust| trust.verify(image, IDENTIFIER, 2).expect_err("refused");
    assert_eq!(refusal(&other.image("EM-1", 2), &maker.trust()), FirmwareRefusal::Signature);
    let half = Maker { key: Maker::new(7).key, second: Maker::new(8).second };
    assert_eq!(refusal(&half.image("EM-1", 2), &maker.trust()), FirmwareRefusal::SecondKey);
    assert_eq!(refusal(&maker.image("EM-2", 2), &maker.trust()), FirmwareRefusal::Model);
    assert_eq!(
        refusal(&maker.image("EM-1", 1), &maker.trust()),
        FirmwareRefusal::Older { found: 1, active: 2 }
    );
    assert_eq!(maker.trust().verify(&image, b"application 3", 2), Err(FirmwareRefusal::Identifier));
    let parts = parts(&image).expect("an image");
    let put = |manifest: &[u8], second: &[u8], contents: &[u8]| {
        encode(|w| {
            w.array(4).bytes(manifest).bytes(parts.second_key).bytes(second).bytes(contents);
        })
    };
    let longer = put(parts.manifest, parts.second_signature, b"machine code and more");
    assert_eq!(refusal(&longer, &maker.trust()), FirmwareRefusal::Size);
    let changed = put(parts.manifest, parts.second_signature, b"machine mode");
    assert_eq!(refusal(&changed, &maker.trust()), FirmwareRefusal::Contents);
    let mut second = parts.second_signature.to_vec();
    second[1_000] ^= 1;
    assert_eq!(
        refusal(&put(parts.manifest, &second, CONTENTS), &maker.trust()),
        FirmwareRefusal::SecondSignature
    );
    assert_eq!(refusal(&put(parts.manifest, &[], CONTENTS), &maker.trust()), FirmwareRefusal::Format);
    // DER in place of raw, and a signature cut short, are no manifest.
    let cut = &parts.manifest[..parts.manifest.len() - 1];
    assert_eq!(refusal(&put(cut, parts.second_signature, CONTENTS), &maker.trust()), FirmwareRefusal::Format);
    let mut byte_behind = image.clone();
    byte_behind.push(0);
    assert_eq!(refusal(&byte_behind, &maker.trust()), FirmwareRefusal::Format);
    // A manifest for something else, by the same key.
    let payload = Sign1::decode(parts.manifest).expect("signed").payload.to_vec();
    let voucher = sign(&maker.key, SignedType::Voucher, &payload).expect("signs");
    assert_eq!(
        refusal(&put(&voucher, parts.second_signature, CONTENTS), &maker.trust()),
        FirmwareRefusal::Signature
    );
}

#[test]
fn what_is_too_large_is_not_signed() {
    let maker = Maker::new(7);
    let draft = |model, identifier| FirmwareDraft { model, version: 1, identifier, issued: UtcTime(0) };
    for (draft, contents) in [
        (draft("", b"i"), CONTENTS),
        (draft(&"m".repeat(65), b"i"), CONTENTS),
        (draft("m", b""), CONTENTS),
        (draft("m", &[0; 65]), CONTENTS),
        (draft("m", b"i"), b""),
    ] {
        assert!(sign_image(draft, contents, (&maker.key, &maker.second)).expect("signs").is_none());
    }
}
