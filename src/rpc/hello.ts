// SPDX-License-Identifier: Apache-2.0
// The first exchange on a connection. The client says which protocol versions it speaks, who it is
// and whom it wants; the server picks the version and says who it is; either refuses the other in
// words. Nothing else is answered before.
//
//   client ── HELLO {versions, self, wants} ──► server
//   client ◄── {version, self} or an error ──── server

import { z } from "zod";
import { StorageError } from "../base/errors.js";

/** The version of the rpc protocol, N; N − 1 is accepted as soon as there is one. */
export const RPC_VERSION = 1;
export const RPC_VERSION_OLDEST = Math.max(1, RPC_VERSION - 1);

/** Operations that belong to rpc itself; those of services are below `OPERATION_RESERVED`. */
export const OPERATION_RESERVED = 0xff00;
export const OPERATION_HELLO = 0xff00;
export const OPERATION_PING = 0xff01;

const name = z.string().max(128);

/** Who stands at an end of a connection. */
export const identitySchema = z.object({
  /** "asd", "router", "proxy", "registry", "cli", … */
  role: name,
  /** Identity within the role (an ASD: its disk's uuid); "" for the nameless. */
  id: name,
  /** Uuid text of the cluster; null before it is known. */
  cluster: name.nullable(),
});
export type Identity = z.infer<typeof identitySchema>;

/** Whom a client wants to talk to; null: anybody will do. */
export const wantedSchema = z.object({
  role: name.nullable(),
  id: name.nullable(),
  cluster: name.nullable(),
});
export type Wanted = z.infer<typeof wantedSchema>;

export const helloSchema = z.object({
  versions: z.array(z.number().int().min(1).max(65_535)).min(1).max(8),
  self: identitySchema,
  wants: wantedSchema,
});
export type Hello = z.infer<typeof helloSchema>;

export const welcomeSchema = z.object({
  version: z.number().int().min(1).max(65_535),
  self: identitySchema,
});
export type Welcome = z.infer<typeof welcomeSchema>;

/** The hello of this version. */
export function makeHello(self: Identity, wants: Wanted): Hello {
  const versions: number[] = [];
  for (let version = RPC_VERSION; version >= RPC_VERSION_OLDEST; version--) versions.push(version);
  return { versions, self, wants };
}

/** The server's answer; throws OVS_WRONG_VERSION or OVS_WRONG_IDENTITY in words. */
export function answerHello(
  hello: Hello,
  self: Identity,
  roles: readonly string[] | null,
): Welcome {
  const version = Math.max(
    ...hello.versions.filter((v) => v >= RPC_VERSION_OLDEST && v <= RPC_VERSION),
  );
  if (!Number.isFinite(version)) {
    throw new StorageError(
      "OVS_WRONG_VERSION",
      `you speak protocol versions ${hello.versions.join(", ")}, ` +
        `this ${self.role} speaks ${RPC_VERSION_OLDEST} to ${RPC_VERSION}`,
    );
  }
  checkIdentity(self, hello.wants);
  if (hello.self.cluster !== null && self.cluster !== null && hello.self.cluster !== self.cluster) {
    throw new StorageError(
      "OVS_WRONG_IDENTITY",
      `you belong to cluster ${hello.self.cluster}, this ${self.role} to ${self.cluster}`,
    );
  }
  if (roles !== null && !roles.includes(hello.self.role)) {
    throw new StorageError(
      "OVS_WRONG_IDENTITY",
      `a ${self.role} does not serve a ${hello.self.role}`,
    );
  }
  return { version, self };
}

/** Throws OVS_WRONG_IDENTITY in words when `self` is not who is wanted. */
export function checkIdentity(self: Identity, wants: Wanted): void {
  for (const field of ["role", "cluster", "id"] as const) {
    if (wants[field] === null || wants[field] === self[field]) continue;
    throw new StorageError(
      "OVS_WRONG_IDENTITY",
      `${field} ${wants[field]} was wanted, but here answers ${field} ${self[field] ?? "(none)"} ` +
        `(${self.role} ${self.id})`,
    );
  }
}
