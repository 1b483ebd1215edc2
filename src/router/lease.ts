// SPDX-License-Identifier: Apache-2.0
// The router's lease: `/router/<id>/alive` is the only key on it and holds the incarnation. As long
// as the key stands, nobody else may claim this router's vDisks (P-C1).
//
// The registry being away does not end a lease: it restarts all of them in full when it comes back
// (P-C7). A lease that is gone all the same means that others may have claimed: the router ends
// itself and comes back with a new incarnation.

import { hasCode, messageOf, StorageError } from "../base/errors.js";
import type { Timer, World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { aliveKey, encodeAlive } from "./records.js";

/** Seconds that a router may be silent. */
export const LEASE_TTL_S = 4;
const RENEW_MS = 500;

/** Whose lease it is. */
export interface LeaseOptions {
  router: string;
  incarnation: Uint8Array;
  /** Where the control service listens. */
  address: string;
  /** Called once when the lease is certainly gone. */
  onLost: (reason: string) => void;
}

/** A router's lease: taken once, renewed by itself until it is given back or lost. */
export class RouterLease {
  readonly #world: World;
  readonly #registry: Registry;
  readonly #options: LeaseOptions;
  #lease = "";
  #timer: Timer | null = null;
  #renewing: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(world: World, registry: Registry, options: LeaseOptions) {
    this.#world = world;
    this.#registry = registry;
    this.#options = options;
  }

  /**
   * Takes the lease. An old one of this router's id is waited for: the supervisor that reaped the
   * old process revokes it at once (P-C3), else it runs out. OVS_BUSY when it does neither.
   */
  async take(timeoutMs: number): Promise<void> {
    const end = this.#world.clock.nowMs() + timeoutMs;
    for (;;) {
      const grant = await this.#registry.leaseGrant(LEASE_TTL_S);
      const key = aliveKey(this.#options.router);
      const result = await this.#registry.transact({
        compares: [{ key, target: "version", is: "=", number: 0 }],
        success: [
          {
            kind: "put",
            key,
            value: encodeAlive(this.#options.incarnation, this.#options.address),
            lease: grant.lease,
          },
        ],
        failure: [],
      });
      if (result.succeeded) {
        this.#lease = grant.lease;
        this.#schedule();
        return;
      }
      await this.#registry.leaseRevoke(grant.lease);
      if (this.#world.clock.nowMs() > end) {
        throw new StorageError(
          "OVS_BUSY",
          `another process lives as router ${this.#options.router}: stop it, or choose another --id`,
        );
      }
      await this.#world.clock.sleep(200);
    }
  }

  /** Gives the lease back: claims need not wait. */
  async release(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#renewing;
    const lease = this.#lease;
    this.#lease = "";
    if (lease === "") return;
    try {
      await this.#registry.leaseRevoke(lease);
    } catch (error) {
      if (!hasCode(error, "OVS_NOT_FOUND")) throw error; // It had run out already.
    }
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = this.#world.clock.after(RENEW_MS, () => {
      this.#renewing = this.#renew();
    });
  }

  async #renew(): Promise<void> {
    try {
      await this.#registry.leaseKeepAlive(this.#lease);
    } catch (error) {
      if (hasCode(error, "OVS_NOT_FOUND")) {
        this.#stopped = true;
        this.#options.onLost("the registry has ended this router's lease");
        return;
      }
      this.#world.log.warn(`the lease could not be renewed: ${messageOf(error)}`);
    }
    this.#schedule();
  }
}
