// SPDX-License-Identifier: Apache-2.0
// Texts of keys found by their bytes: always the key's own, however many others fall in its row.

import t from "tap";
import { keyText } from "../../src/asd/index.js";
import { KeyTexts } from "../../src/asd/keytexts.js";
import { randomOf, seed } from "./fixture.js";

t.test(`a key's text is made of its bytes, again and again (seed ${seed})`, async (t) => {
  const random = randomOf(seed);
  const texts = new KeyTexts();
  const keys = Array.from({ length: 5000 }, (_, i) => {
    const bytes = new Uint8Array(i % 3 === 0 ? 25 : random(256));
    for (let j = 0; j < bytes.length; j++) bytes[j] = random(i % 2 === 0 ? 256 : 2);
    return bytes;
  });
  let wrong = 0;
  for (let round = 0; round < 20_000; round++) {
    const key = keys[random(keys.length)]!;
    const frame = new Uint8Array(key.length + 9);
    const from = random(10);
    frame.set(key, from);
    const text = texts.at(frame, from, from + key.length);
    if (text !== keyText(key)) wrong++;
  }
  t.equal(wrong, 0);
  t.equal(texts.at(new Uint8Array(4), 2, 2), "", "an empty key");
  t.equal(texts.at(Uint8Array.of(0, 0), 0, 2), "\0\0", "zeroes are no empty row");
  t.throws(() => texts.at(new Uint8Array(4), 2, 6), "a key outside its bytes");
});
