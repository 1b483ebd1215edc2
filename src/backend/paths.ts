// SPDX-License-Identifier: Apache-2.0
// Keys of the backend in the registry.
//
//   /osd/<8 hex>              OsdRecord
//   /preset/<name>            Preset
//   /namespace/<ns>           empty: the list of namespaces
//   /deleting/<ns>            empty: namespaces that are being removed
//   /ns/<ns>/info             NamespaceRecord: exists while the namespace does
//   /ns/<ns>/fence            owner epoch, fixed width (P-C5)
//   /ns/<ns>/gc               lowest valid upload epoch, fixed width (P-C6)
//   /ns/<ns>/o/<name>         Manifest of an object
//   /ns/<ns>/…                anything else belongs to the volume that owns the namespace
//   /width/<ns>/<name>        empty: the object may lack width, repair looks at it (P-A10)
//   /trash/<ns>/<object id>-… Manifest whose fragments are named by no object any more and go
//
// /width and /trash lie in the namespace's shard; they stand apart so that whoever works them off
// finds those of all namespaces in one range.

import { toHex } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { fixedNumber } from "../registry/registry.js";
import { OBJECT_NAME_BYTES_MAX } from "./store.js";

export const OSD_PREFIX = "/osd/";
export const PRESET_PREFIX = "/preset/";
export const NAMESPACE_LIST_PREFIX = "/namespace/";
export const DELETING_PREFIX = "/deleting/";
export const NAMESPACES_PREFIX = "/ns/";
export const WIDTH_PREFIX = "/width/";
export const TRASH_PREFIX = "/trash/";

const NAMESPACE = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const OBJECT = /^[a-z0-9][a-z0-9./_-]*$/;

/** Key of an OSD's record. */
export const osdPath = (id: number): string => `${OSD_PREFIX}${id.toString(16).padStart(8, "0")}`;
/** Key of a preset. */
export const presetPath = (name: string): string => `${PRESET_PREFIX}${name}`;
/** What all keys of a namespace begin with, those of /width and /trash aside. */
export const namespacePrefix = (namespace: string): string => `${NAMESPACES_PREFIX}${namespace}/`;
/** Key of the NamespaceRecord: the namespace exists while it does. */
export const infoPath = (namespace: string): string => `${NAMESPACES_PREFIX}${namespace}/info`;
/** Key of the lowest owner epoch that may change the namespace (P-C5). */
export const fencePath = (namespace: string): string => `${NAMESPACES_PREFIX}${namespace}/fence`;
/** Key of the lowest upload epoch whose commits are valid (P-C6). */
export const gcPath = (namespace: string): string => `${NAMESPACES_PREFIX}${namespace}/gc`;
/** What the keys of a namespace's manifests begin with. */
export const objectsPrefix = (namespace: string): string => `${NAMESPACES_PREFIX}${namespace}/o/`;
/** Key of an object's manifest. */
export const objectPath = (namespace: string, name: string): string =>
  `${NAMESPACES_PREFIX}${namespace}/o/${name}`;
/** What the keys of a namespace's objects that may lack width begin with. */
export const widthPrefix = (namespace: string): string => `${WIDTH_PREFIX}${namespace}/`;
/** Key that says that an object may lack width (P-A10). */
export const widthPath = (namespace: string, name: string): string =>
  `${WIDTH_PREFIX}${namespace}/${name}`;
/** What the keys of a namespace's manifests that wait for removal begin with. */
export const trashPrefix = (namespace: string): string => `${TRASH_PREFIX}${namespace}/`;
/** `tag` tells several of one object apart. */
export const trashPath = (namespace: string, objectId: Uint8Array, tag: string): string =>
  `${TRASH_PREFIX}${namespace}/${toHex(objectId)}-${tag}`;

/** Namespace and the rest of a key below WIDTH_PREFIX or TRASH_PREFIX. */
export function splitPath(key: string, prefix: string): { namespace: string; rest: string } {
  const slash = key.indexOf("/", prefix.length);
  return { namespace: key.slice(prefix.length, slash), rest: key.slice(slash + 1) };
}

/** Throws OVS_INVALID in words. */
export function checkNamespace(namespace: string): void {
  if (NAMESPACE.test(namespace)) return;
  throw new StorageError(
    "OVS_INVALID",
    `"${namespace}" is not a namespace: use 1 to 63 of a-z 0-9 . _ -, first a letter or digit`,
  );
}

/** Throws OVS_INVALID in words. */
export function checkObjectName(name: string): void {
  if (name.length <= OBJECT_NAME_BYTES_MAX && OBJECT.test(name)) return;
  throw new StorageError(
    "OVS_INVALID",
    `"${name}" is not an object's name: use 1 to ${OBJECT_NAME_BYTES_MAX} of a-z 0-9 . / _ -`,
  );
}

/** The OSD id in a key below OSD_PREFIX; 0 when it is none. */
export function osdIdOf(key: string): number {
  const text = key.slice(OSD_PREFIX.length);
  return /^[0-9a-f]{8}$/.test(text) ? Number.parseInt(text, 16) : 0;
}

/** A number as a value that compares bytewise. */
export function numberValue(value: number): Uint8Array {
  return Buffer.from(fixedNumber(value), "latin1");
}

/** Reads such a value; OVS_CORRUPT when it is none. */
export function readNumber(value: Uint8Array, what: string): number {
  const text = Buffer.from(value).toString("latin1");
  if (!/^[0-9a-f]{14}$/.test(text)) {
    throw new StorageError(
      "OVS_CORRUPT",
      `${what} in the registry is not a number of 14 hex digits`,
    );
  }
  return Number.parseInt(text, 16);
}
