// SPDX-License-Identifier: Apache-2.0
// The OSDs of this process: one connection for each that the topology names, made and ended as the
// topology changes, and what this process has seen of them.

import type { World } from "../platform/world.js";
import { OsdState } from "../wire/generated/osd.js";
import type { Osd } from "./osd.js";
import type { Candidate, Place } from "./placement.js";
import type { BackendTopology, OsdInfo } from "./topology.js";

/** `onUpOrDown`: its connection came or went. */
export type OsdFactory = (info: OsdInfo, onUpOrDown: () => void) => Osd;

interface Member {
  info: OsdInfo;
  osd: Osd;
  /** When it was first found without connection; -1 while it is up. */
  downSinceMs: number;
}

export class OsdPool {
  readonly topology: BackendTopology;
  readonly #world: Pick<World, "clock" | "log">;
  readonly #factory: OsdFactory;
  readonly #members = new Map<number, Member>();
  readonly #closing = new Set<Promise<void>>();
  #stopped = false;

  constructor(world: Pick<World, "clock" | "log">, topology: BackendTopology, factory: OsdFactory) {
    this.#world = world;
    this.topology = topology;
    this.#factory = factory;
    topology.onChange(() => this.#follow());
  }

  /** Connects to what the topology names now. */
  start(): void {
    this.#follow();
  }

  /** Closes all OSDs, and waits for those that were leaving. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const member of this.#members.values()) this.#close(member);
    this.#members.clear();
    await Promise.all(this.#closing);
  }

  /** null: there is no such OSD, or it is gone for ever. */
  get(id: number): Osd | null {
    return this.#members.get(id)?.osd ?? null;
  }

  /** Answers of it are to be expected. */
  isUp(id: number): boolean {
    return this.#members.get(id)?.osd.up ?? false;
  }

  /**
   * How long it has been without connection; 0 when it is up, Infinity when it is gone or unknown.
   */
  downMs(id: number): number {
    const member = this.#members.get(id);
    if (member === undefined) return Number.POSITIVE_INFINITY;
    this.#look(member);
    if (member.downSinceMs < 0) return 0;
    return Math.max(0, this.#world.clock.nowMs() - member.downSinceMs);
  }

  /** Takes no new fragments and should lose those that it has. */
  isDraining(id: number): boolean {
    return this.#members.get(id)?.info.state === OsdState.draining;
  }

  /** Where an OSD stands; one that is unknown counts as a domain of its own. */
  place(id: number): Place {
    const info = this.topology.osds.get(id);
    return info ?? { id, site: `?${id}`, rack: "", node: "" };
  }

  /** OSDs that may be asked; in no order. */
  *all(): IterableIterator<Osd> {
    for (const { osd } of this.#members.values()) yield osd;
  }

  /** OSDs that take new fragments now; slow ones only when asked for. */
  writable(withSlow: boolean): Candidate[] {
    const list: Candidate[] = [];
    for (const { info, osd } of this.#members.values()) {
      if (info.state !== OsdState.active || !osd.up || osd.full) continue;
      if (osd.slow && !withSlow) continue;
      const { id, site, rack, node } = info;
      list.push({ id, site, rack, node, freeBytes: osd.freeBytes, load: osd.load });
    }
    return list;
  }

  #follow(): void {
    if (this.#stopped) return;
    for (const [id, member] of this.#members) {
      const info = this.topology.osds.get(id);
      if (info !== undefined && isSame(info, member.info)) {
        member.info = info;
        continue;
      }
      this.#members.delete(id);
      this.#close(member);
    }
    for (const info of this.topology.osds.values()) {
      if (info.state === OsdState.gone || this.#members.has(info.id)) continue;
      const osd = this.#factory(info, () => {
        const member = this.#members.get(info.id);
        if (member?.osd === osd) this.#look(member);
      });
      this.#members.set(info.id, { info, osd, downSinceMs: this.#world.clock.nowMs() });
    }
  }

  #close(member: Member): void {
    const closing = member.osd.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  #look(member: Member): void {
    if (member.osd.up) member.downSinceMs = -1;
    else if (member.downSinceMs < 0) member.downSinceMs = this.#world.clock.nowMs();
  }
}

function isSame(a: OsdInfo, b: OsdInfo): boolean {
  return a.address === b.address && a.diskUuid === b.diskUuid && a.state !== OsdState.gone;
}
