/** Calls of the HTTP API, relative to the page's own address. */

import { Problem } from "./problem.js";

const TOKEN_KEY = "cpcsam.token";

/**
 * What the browser keeps of the page, or the page alone where the browser keeps nothing.
 *
 * @param {"localStorage" | "sessionStorage"} kind
 * @returns {{get: (key: string) => string | null, set: (key: string, value: string) => void}} an
 *   empty value is removed
 */
export function kept(kind) {
  const here = new Map();
  return {
    get(key) {
      try {
        return window[kind].getItem(key);
      } catch {
        return here.get(key) ?? null;
      }
    },
    set(key, value) {
      here.set(key, value || null);
      try {
        if (value) window[kind].setItem(key, value);
        else window[kind].removeItem(key);
      } catch {
        // Site data are blocked.
      }
    },
  };
}

const tab = kept("sessionStorage");

/** The bearer token, kept for this tab alone. */
export const token = {
  get: () => tab.get(TOKEN_KEY) ?? "",
  set: (value) => tab.set(TOKEN_KEY, value),
};

/**
 * Send a request and return the JSON of its answer.
 *
 * @param {string} method
 * @param {string} path such as "v1/segment"
 * @param {object | FormData} [body]
 * @param {AbortSignal} [signal]
 * @throws {Problem} the service refused, or did not answer
 * @throws {DOMException} AbortError: the signal was raised
 */
export async function call(method, path, body, signal) {
  const headers = { Accept: "application/json" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Problem.unreachable(error);
  }
  if (!response.ok) throw await Problem.of(response);
  return response.json();
}

export const describe = () => call("GET", "v1/describe");
export const listClasses = () => call("GET", "v1/classes");
export const removeClass = (name) => call("DELETE", `v1/classes/${encodeURIComponent(name)}`);
