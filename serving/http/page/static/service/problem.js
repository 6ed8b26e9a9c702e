/** An error as the service tells it: application/problem+json, or none at all. */

export class Problem extends Error {
  /**
   * @param {object} body title, detail, code, field and retry_after_s, as far as known
   * @param {number} status 0 where no answer came
   */
  constructor(body, status) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.name = "Problem";
    this.title = body.title || "The request failed";
    this.status = status;
    this.code = body.code ?? "";
    this.field = body.field ?? "";
    this.retryAfterS = body.retry_after_s ?? null;
    // "what: got ..., expected ...; fix"
    const cut = this.message.lastIndexOf("; ");
    this.what = cut < 0 ? this.message : this.message.slice(0, cut);
    this.fix = cut < 0 ? "" : this.message.slice(cut + 2);
  }

  /** Read the problem of an answer. */
  static async of(response) {
    let body = {};
    try {
      body = await response.json();
    } catch {
      body = { title: response.statusText };
    }
    return new Problem(body, response.status);
  }

  /** The service could not be reached. */
  static unreachable(cause) {
    const detail = `no answer from the service (${cause.message}); check that it runs and try again`;
    return new Problem({ title: "Not reachable", detail, code: "UNAVAILABLE" }, 0);
  }
}
