/**
 * Follows a durable stream from a web page: catches up, stays live, and resumes by itself.
 *
 *   import { follow } from '/v1/stream/__ds/follow.js'
 *   await follow('/v1/stream/chat', { onBatch: messages => messages.forEach(show) })
 *
 * Each message is delivered once and in order, across lost connections, server restarts and sleep.
 * Tabs of one browser share one live connection where the browser has Web Locks.
 *
 * @typedef {object} Progress
 * @property {string} offset - where reading resumes after this batch
 * @property {boolean} upToDate - whether this was everything for now
 * @property {boolean} closed - whether the stream has ended
 *
 * @typedef {'live' | 'offline' | 'reset' | 'closed'} Status
 *   `offline`: the next attempt comes after a pause. `reset`: the stream was replaced by a new one
 *   at the same URL and is read from its start; clear what is shown.
 *
 * @typedef {object} Options
 * @property {string} [offset] - where to begin: an offset, '-1' for the start, 'now' for the tail
 * @property {AbortSignal} [signal] - ends following; the promise then resolves
 * @property {(batch: any, progress: Progress) => unknown} [onBatch] - gets an array of messages
 *   from a JSON stream, a string from a text stream and a Uint8Array from any other; the next batch
 *   waits for the promise it returns
 * @property {(status: Status, reason?: unknown) => unknown} [onStatus]
 * @property {string} [storageKey] - keep the offset in localStorage under this key; a kept offset
 *   goes before `offset`
 * @property {RequestInit} [init] - for every fetch, such as `{ credentials: 'include' }`
 */

const FIRST_PAUSE = 500
const LONGEST_PAUSE = 15_000
// The server sends a comment every 15 seconds; a connection that is silent for longer is dead.
const SILENCE = 45_000
const RESET = new Error('The stream was replaced.')

/** The server refused: repeating the request will not help. */
export class FollowError extends Error {
  /** @param {Response} response @param {string} detail */
  constructor(response, detail) {
    super(`${response.url}: ${response.status} ${detail}`)
    this.name = 'FollowError'
    this.status = response.status
  }
}

/**
 * Resolves when the stream is closed or `signal` aborts. Rejects with a {@link FollowError} when
 * the server refuses, and with whatever `onBatch` throws.
 *
 * @param {string | URL} url
 * @param {Options} [options]
 * @returns {Promise<void>}
 */
export async function follow(url, { offset = '-1', signal, onBatch, onStatus, storageKey, init } = {}) {
  const target = new URL(url, location.href)
  const name = 'durable-streams ' + target
  const channel = new BroadcastChannel(name)
  const ended = new AbortController()
  let position = (storageKey && localStorage.getItem(storageKey)) || offset
  let cursor = ''
  /** The offset that was refused. It gives the new stream's start a URL that no cache knows. */
  let replaced = ''
  let kind = ''
  let decoder = new TextDecoder()
  let failures = 0
  let closed = false
  /** What the page was told last. @type {Status | undefined} */
  let told
  /** What a handler of the page threw. @type {{ error: unknown } | undefined} */
  let thrown
  /** Ends the connection or the pause that is under way. */
  let interrupt = () => {}
  const onOnline = () => interrupt()
  const stop = () => {
    ended.abort()
    interrupt()
  }

  const call = async (handler, ...args) => {
    try {
      await handler?.(...args)
    } catch (error) {
      thrown = { error }
      throw error
    }
  }

  const tell = (status, reason) => {
    told = status
    return call(onStatus, status, reason)
  }

  const moveTo = (next, keep = true) => {
    position = next
    if (storageKey && keep) localStorage.setItem(storageKey, next)
    else if (storageKey) localStorage.removeItem(storageKey)
  }

  const deliver = async (batch, progress) => {
    if (batch.length) await call(onBatch, batch, progress)
    // Where the browser refuses to keep it, a later visit would show messages again: that is an error.
    await call(moveTo, progress.offset)
    failures = 0
    closed = progress.closed
    if (closed) stop()
  }

  const reset = async reason => {
    replaced = position
    moveTo('-1', false)
    kind = cursor = ''
    decoder = new TextDecoder()
    told = undefined
    await call(onStatus, 'reset', reason)
  }

  const get = async (query, abort) => {
    const at = new URL(target)
    const fresh = position === '-1' && replaced
    for (const [key, value] of Object.entries({ offset: position, replaced: fresh, ...query })) {
      if (value) at.searchParams.set(key, value)
    }
    const response = await fetch(at, { ...init, signal: abort.signal })
    if (response.ok) {
      const type = response.headers.get('content-type') ?? ''
      if (query.live ? type.startsWith('text/event-stream') : response.headers.has('stream-next-offset')) return response
      // A page to log in, perhaps: it would be read again and again.
      throw new FollowError(response, 'This is not the response of a durable stream.')
    }
    const detail = (await response.json().catch(() => null))?.detail
    const error = new FollowError(response, detail ?? response.statusText)
    if (response.status !== 410 || position === '-1') throw error
    const refused = position
    await reset(error)
    channel.postMessage({ status: 'reset', refused })
    throw RESET
  }

  /** Runs `work` on one connection, which ends when it is silent for too long. */
  const connect = async work => {
    const abort = new AbortController()
    let timer
    const alive = () => {
      clearTimeout(timer)
      timer = setTimeout(() => abort.abort(new Error('The connection went silent.')), SILENCE)
    }
    interrupt = () => abort.abort(new Error('interrupted'))
    alive()
    try {
      await work(abort, alive)
    } finally {
      clearTimeout(timer)
      abort.abort()
    }
  }

  /** A character whose bytes came in two appends is completed by the second. */
  const textOf = (bytes, { closed }) => decoder.decode(bytes, { stream: !closed })

  const decode = (data, base64, progress) => {
    if (kind === 'json') return JSON.parse(data)
    if (!base64) return data
    const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0))
    return kind === 'text' ? textOf(bytes, progress) : bytes
  }

  const catchUp = () =>
    connect(async (abort, alive) => {
      for (let upToDate = false; !upToDate && !ended.signal.aborted; alive()) {
        const response = await get({}, abort)
        const { headers } = response
        kind = kindOf(headers.get('content-type') ?? '')
        const body = await whole(response.body, alive)
        upToDate = headers.has('stream-up-to-date')
        const progress = {
          offset: headers.get('stream-next-offset'),
          upToDate,
          closed: headers.has('stream-closed'),
        }
        const batch = kind === 'json' ? await body.json()
          : kind === 'text' ? textOf(await body.arrayBuffer(), progress)
          : new Uint8Array(await body.arrayBuffer())
        await deliver(batch, progress)
      }
    })

  const live = () =>
    connect(async (abort, alive) => {
      const response = await get({ live: 'sse', cursor }, abort)
      const base64 = response.headers.get('stream-sse-data-encoding') === 'base64'
      const began = performance.now()
      await tell('live')
      channel.postMessage({ status: 'live' })
      let data
      for await (const event of events(response.body, alive)) {
        if (event.type === 'data') data = event.data
        if (event.type !== 'control') continue
        const control = JSON.parse(event.data)
        const progress = {
          offset: control.streamNextOffset,
          upToDate: control.upToDate === true,
          closed: control.streamClosed === true,
        }
        const batch = data === undefined ? '' : decode(data, base64, progress)
        data = undefined
        cursor = control.streamCursor ?? cursor
        // First, because the page may change the batch, or take its time.
        channel.postMessage({ from: position, batch, progress })
        await deliver(batch, progress)
        if (ended.signal.aborted) return
      }
      if (performance.now() - began < FIRST_PAUSE) throw new Error('The connection ended at once.')
    })

  /** Repeats `step`, with growing pauses after failures, until `done` or the end. */
  const persist = async (step, done = () => false) => {
    while (!ended.signal.aborted && !done()) {
      try {
        await step()
      } catch (error) {
        if (ended.signal.aborted) return
        if (error === RESET) continue
        const { status } = error instanceof FollowError ? error : { status: 503 }
        if (thrown || (status < 500 && status !== 429 && status !== 408)) throw error
        channel.postMessage({ status: 'offline' })
        await tell('offline', error)
        if (ended.signal.aborted) return
        const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** failures++)
        await new Promise(resolve => {
          interrupt = resolve
          setTimeout(resolve, pause * (0.5 + Math.random() / 2))
        })
      }
    }
  }

  const catchUpOnce = () => {
    let done = false
    return persist(() => catchUp().then(() => (done = true)), () => done)
  }

  // While another tab holds the live connection, this one takes what that tab passes on.
  let turn = Promise.resolve()
  let leading = false
  const take = async ({ asks, from, batch, progress, status, refused }) => {
    if (leading && asks && told) channel.postMessage({ status: told })
    if (leading || asks || ended.signal.aborted) return
    if (status === 'reset') {
      // The first half of an offset says which stream it belongs to: this tab may read the new one.
      return position.slice(0, 16) > refused.slice(0, 16) ? undefined : reset().then(catchUpOnce)
    }
    if (status) return status === told ? undefined : tell(status)
    if (from === position) {
      decoder = new TextDecoder()
      return deliver(batch, progress)
    }
    if (progress.offset > position) return catchUpOnce()
  }
  let refuse
  const refused = new Promise((_, reject) => (refuse = reject))
  refused.catch(() => {})
  channel.onmessage = ({ data }) => (turn = turn.then(() => take(data)).catch(refuse))

  const lead = async () => {
    await turn
    leading = true
    await persist(() => (kind ? live() : catchUp()))
  }

  signal?.addEventListener('abort', stop)
  addEventListener('online', onOnline)
  try {
    if (signal?.aborted) return
    turn = catchUpOnce()
    await turn
    // The tab that holds the live connection says how it is.
    channel.postMessage({ asks: true })
    const led = navigator.locks
      ? navigator.locks.request(name, { signal: ended.signal }, lead)
      : lead()
    await Promise.race([led, refused])
  } catch (error) {
    if (thrown) throw thrown.error
    if (!ended.signal.aborted) throw error
  } finally {
    stop()
    channel.close()
    signal?.removeEventListener('abort', stop)
    removeEventListener('online', onOnline)
    if (closed) await onStatus?.('closed')
  }
}

/** @param {string} type */
function kindOf(type) {
  const media = type.split(';')[0].trim().toLowerCase()
  return media === 'application/json' ? 'json' : media.startsWith('text/') ? 'text' : 'bytes'
}

/** A body, of which `alive` hears while it comes. */
const whole = (body, alive) => {
  const transform = (chunk, controller) => {
    alive()
    controller.enqueue(chunk)
  }
  return new Response(body?.pipeThrough(new TransformStream({ transform })))
}

/** The events of a text/event-stream body; `alive` is called whenever something arrives. */
async function* events(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  let held = ''
  let type = ''
  let data = []
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    alive()
    // Only what is new is searched: a line may be long, and come in many pieces.
    const text = held + value
    held = text.endsWith('\r') ? '\r' : ''
    const lines = text.slice(0, text.length - held.length).split(/\r\n|\n|\r/)
    lines[0] = rest + lines[0]
    rest = lines.pop()
    for (const line of lines) {
      const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line)
      if (line === '' && data.length) yield { type, data: data.join('\n') }
      if (line === '') [type, data] = ['', []]
      else if (field === 'event') type = text
      else if (field === 'data') data.push(text)
    }
  }
}
