// Keep the page of the pools up to date: poll, put what has changed in place, count down.
"use strict";

(() => {
  const root = document.getElementById("dbp");
  const status = document.getElementById("dbp-status");
  const stop = document.getElementById("dbp-stop");
  if (!root || !window.fetch || !window.AbortController) {
    return;
  }
  const EVERY = 2000; // milliseconds from an answer to the next poll
  const CHARTS = 3; // each third poll asks for the charts
  const LONGEST = 10000; // milliseconds that an answer may take
  const ALIVE = "Updating every 2 seconds.";
  // No cookies: with none, no middleware reads a session. Where a proxy before the site
  // wants them, its answer is none of ours.
  let credentials = "omit";
  let token = root.dataset.token;
  let polls = 0;
  let failures = 0;
  // What breaks the newest poll off, null while nothing is updated.
  let asking = new AbortController();
  let timer = 0;
  let shownAt = performance.now();

  // A site may forbid HTML from a text, unless a policy has made it.
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("dbpool_mw", { createHTML: (text) => text })
    : { createHTML: (text) => text };

  function same(old, wanted) {
    return (
      old.nodeType === wanted.nodeType &&
      old.nodeName === wanted.nodeName &&
      (old.nodeType !== 1 ||
        old.getAttribute("data-key") === wanted.getAttribute("data-key"))
    );
  }

  function find(parent, from, wanted) {
    for (let node = from; node; node = node.nextSibling) {
      if (same(node, wanted)) {
        return node;
      }
    }
    return null;
  }

  // Make a node's attributes and children those of another one. What stays the same stays
  // the same node: what is focused, selected or unfolded remains so.
  function morph(old, wanted) {
    for (const { name, value } of [...wanted.attributes]) {
      if (old.getAttribute(name) !== value) {
        old.setAttribute(name, value);
      }
    }
    for (const { name } of [...old.attributes]) {
      if (!wanted.hasAttribute(name) && name !== "open") {
        old.removeAttribute(name);
      }
    }
    let at = old.firstChild;
    for (const child of [...wanted.childNodes]) {
      const match = find(old, at, child);
      if (!match) {
        old.insertBefore(document.importNode(child, true), at);
        continue;
      }
      if (match === at) {
        at = at.nextSibling;
      } else if (child.nodeType === 1 && child.hasAttribute("data-key")) {
        // Whatever stands between is gone, or comes later: a row is never moved, so that
        // it doesn't lose the focus.
        while (at !== match) {
          const gone = at;
          at = at.nextSibling;
          gone.remove();
        }
        at = at.nextSibling;
      } else {
        old.insertBefore(match, at);
      }
      if (child.nodeType === 1) {
        morph(match, child);
      } else if (match.nodeValue !== child.nodeValue) {
        match.nodeValue = child.nodeValue;
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function show(parts) {
    shownAt = performance.now();
    for (const [name, html] of Object.entries(parts)) {
      const parsed = new DOMParser().parseFromString(
        policy.createHTML(html),
        "text/html"
      );
      const part = document.getElementById(`dbp-${name}`);
      const body = parsed.body;
      for (const { name: attribute, value } of [...part.attributes]) {
        body.setAttribute(attribute, value);
      }
      morph(part, body);
    }
    tick();
  }

  function say(text) {
    if (status.textContent !== text) {
      status.textContent = text;
    }
  }

  function duration(seconds) {
    const whole = Math.max(0, Math.ceil(seconds));
    const two = (number) => String(number).padStart(2, "0");
    if (whole < 60) {
      return `${whole}s`;
    }
    if (whole < 3600) {
      return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
    }
    return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  }

  // What ends by itself is counted down between two polls too.
  function tick() {
    const passed = (performance.now() - shownAt) / 1000;
    for (const each of root.querySelectorAll("[data-seconds]")) {
      const text = duration(Number(each.dataset.seconds) - passed);
      if (each.textContent !== text) {
        each.textContent = text;
      }
    }
  }

  async function ask(abort) {
    const address = new URL(root.dataset.poll, document.baseURI);
    if (polls % CHARTS === 0) {
      address.searchParams.set("charts", "1");
    }
    const limit = setTimeout(() => abort.abort(), LONGEST);
    try {
      const response = await fetch(address, {
        headers: { "X-Dbpool-Token": token, Accept: "application/json" },
        cache: "no-store",
        redirect: "error",
        credentials,
        signal: abort.signal,
      });
      const type = response.headers.get("Content-Type") || "";
      if (!type.startsWith("application/json")) {
        throw new Error(`status ${response.status}`);
      }
      return [response.status, await response.json()];
    } finally {
      clearTimeout(limit);
    }
  }

  async function poll() {
    const own = new AbortController();
    asking = own;
    try {
      const [code, answer] = await ask(own);
      if (asking !== own) {
        return;
      }
      if (code === 403 && answer.error) {
        end(answer.error);
        return;
      }
      if (code !== 200) {
        throw new Error(`status ${code}`);
      }
      token = answer.token;
      polls += 1;
      failures = 0;
      show(answer.parts);
      say(ALIVE);
      root.dataset.polls = String(polls);
    } catch (error) {
      if (asking !== own) {
        return;
      }
      failures += 1;
      if (polls === 0 && failures === 1) {
        credentials = "same-origin";
      }
      if (failures > 1) {
        say(`No answer from the site (${error.message}): trying again.`);
      }
    }
    timer = setTimeout(poll, EVERY * Math.min(failures + 1, 5));
  }

  function end(text) {
    asking.abort();
    asking = null;
    clearTimeout(timer);
    say(text);
    stop.textContent = "Update again";
  }

  stop.hidden = false;
  stop.addEventListener("click", () => {
    if (asking) {
      end("Not updating.");
    } else {
      stop.textContent = "Stop updating";
      say(ALIVE);
      poll();
    }
  });
  say(ALIVE);
  setInterval(tick, 1000);
  timer = setTimeout(poll, EVERY);
})();
