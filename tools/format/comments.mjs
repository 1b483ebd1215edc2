// SPDX-License-Identifier: Apache-2.0
// Breaks comment lines that are too long, which Biome leaves alone: what does not fit goes on to
// the next line of the same paragraph, a one-line doc comment becomes one of several lines, and a
// comment behind code moves to the line before it. Lines with runs of spaces (drawings, tables)
// and lines that fit stay as they are.

const COLUMNS_MAX = 100;
const COMMENT = /^(\s*(?:\/\/|\*) )(.*)$/;
const TABLE = /\S {2,}\S|[─│┌└►▼]/;

/** `text` with its overlong comment lines broken. */
export function wrapComments(text) {
  const input = text.split("\n").flatMap(unfold);
  const output = [];
  for (let index = 0; index < input.length; index++) {
    const comment = COMMENT.exec(input[index]);
    const isLong = [...input[index]].length > COLUMNS_MAX;
    if (!isLong || !comment || TABLE.test(comment[2])) {
      output.push(input[index]);
      continue;
    }
    const [, prefix, words] = comment;
    const { line, rest } = cut(prefix, words);
    output.push(line);
    if (rest === "") continue;
    // The rest is looked at next, at the head of the following line where that goes on with it.
    if (goesOn(input[index + 1], prefix)) {
      input[index + 1] = `${prefix}${rest} ${input[index + 1].slice(prefix.length)}`;
    } else {
      input.splice(index + 1, 0, `${prefix}${rest}`);
    }
  }
  return output.join("\n");
}

// An overlong line that has to become several before its words can be moved.
function unfold(line) {
  if ([...line].length <= COLUMNS_MAX) return [line];
  const doc = /^(\s*)\/\*\* (.*) \*\/$/.exec(line);
  if (doc) return [`${doc[1]}/**`, `${doc[1]} * ${doc[2]}`, `${doc[1]} */`];
  const behind = /^(\s*)(\S.*[;,{)\]]) \/\/ ([^"'`]*)$/.exec(line);
  if (behind) return [`${behind[1]}// ${behind[3]}`, `${behind[1]}${behind[2]}`];
  return [line];
}

// As many words as fit, at least one, and the others.
function cut(prefix, text) {
  const words = text.split(" ");
  let line = `${prefix}${words.shift()}`;
  while (words.length > 0 && [...`${line} ${words[0]}`].length <= COLUMNS_MAX) {
    line += ` ${words.shift()}`;
  }
  return { line, rest: words.join(" ") };
}

// True when `line` is the next line of a paragraph whose lines begin with `prefix`.
function goesOn(line, prefix) {
  if (!line?.startsWith(prefix)) return false;
  const text = line.slice(prefix.length);
  return /^[A-Za-z`(]/.test(text) && !TABLE.test(text);
}
