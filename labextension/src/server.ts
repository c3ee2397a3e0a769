/** What the server says about runs, and what it is asked to do with them. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

/** A run, as a line of the list. */
export interface Listed {
  run: string;
  id: string;
  status: string;
  task: string;
  started: number;
  cost: number | null;
}

/** An agent, with all below it. `kernel` is the kernelspec that leads into its kernel, where there is one. */
export interface Agent {
  agent: string;
  notebook: string | null;
  status: string;
  task: string;
  iterations: number;
  cost: number;
  seconds: number;
  fault: string | null;
  kernel: string | null;
  children: Agent[];
}

/** What is spent of something that has a limit. */
export interface Bar {
  kind: string;
  spent: number;
  reserved: number;
  limit: number;
}

/** What an agent's model proposes, and a person decides about. */
export interface Proposal {
  key: string;
  agent: string;
  number: number;
  text: string;
  code: string[];
  note: string | null;
}

/** A run as a whole. `reachable` says whether it hears what is asked of it. */
export interface Run {
  run: string;
  id: string;
  status: string;
  task: string;
  stop_reason: string;
  tree: Agent;
  budget: Bar[];
  waiting: Proposal[];
  reachable: boolean;
}

/** Ask the server; throws with what it says when it refuses. */
export async function ask<T>(
  settings: ServerConnection.ISettings,
  name: string,
  query: Record<string, string>,
  body?: unknown
): Promise<T> {
  const url = URLExt.join(settings.baseUrl, 'rlm-nb', name) + URLExt.objectToQueryString(query);
  const init: RequestInit = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
  const response = await ServerConnection.makeRequest(url, init, settings);
  const answer = (await response.json()) as T & { message?: string };
  if (!response.ok) {
    throw new Error(answer.message ?? response.statusText);
  }
  return answer;
}
