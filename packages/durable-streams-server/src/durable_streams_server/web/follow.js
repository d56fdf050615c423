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
  let kind = ''
  let failures = 0
  let closed = false
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

  const moveTo = (next, keep = true) => {
    position = next
    if (storageKey && keep) localStorage.setItem(storageKey, next)
    else if (storageKey) localStorage.removeItem(storageKey)
  }

  const deliver = async (batch, progress) => {
    if (batch.length) await call(onBatch, batch, progress)
    moveTo(progress.offset)
    failures = 0
    closed = progress.closed
    if (closed) stop()
  }

  const reset = async reason => {
    moveTo('-1', false)
    kind = cursor = ''
    await call(onStatus, 'reset', reason)
  }

  const get = async (query, abort) => {
    const at = new URL(target)
    for (const [key, value] of Object.entries({ offset: position, ...query })) {
      if (value) at.searchParams.set(key, value)
    }
    const response = await fetch(at, { ...init, signal: abort.signal })
    if (response.ok) return response
    const { detail } = await response.json().catch(() => ({}))
    const error = new FollowError(response, detail ?? response.statusText)
    if (response.status !== 410 || position === '-1') throw error
    await reset(error)
    channel.postMessage({ status: 'reset' })
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

  const catchUp = () =>
    connect(async (abort, alive) => {
      for (let upToDate = false; !upToDate && !ended.signal.aborted; alive()) {
        const response = await get({}, abort)
        const { headers } = response
        kind = kindOf(headers.get('content-type') ?? '')
        const batch = await (kind === 'json' ? response.json()
          : kind === 'text' ? response.text()
          : response.arrayBuffer().then(buffer => new Uint8Array(buffer)))
        upToDate = headers.has('stream-up-to-date')
        const next = headers.get('stream-next-offset') ?? position
        await deliver(batch, { offset: next, upToDate, closed: headers.has('stream-closed') })
      }
    })

  const live = () =>
    connect(async (abort, alive) => {
      const response = await get({ live: 'sse', cursor }, abort)
      const base64 = response.headers.get('stream-sse-data-encoding') === 'base64'
      await call(onStatus, 'live')
      channel.postMessage({ status: 'live' })
      let data
      for await (const event of events(response.body, alive)) {
        if (event.type === 'data') data = event.data
        if (event.type !== 'control') continue
        const control = JSON.parse(event.data)
        const batch = data === undefined ? '' : decode(data, kind, base64)
        const progress = {
          offset: control.streamNextOffset,
          upToDate: control.upToDate === true,
          closed: control.streamClosed === true,
        }
        const from = position
        data = undefined
        cursor = control.streamCursor ?? cursor
        await deliver(batch, progress)
        channel.postMessage({ from, batch, progress })
        if (ended.signal.aborted) return
      }
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
        await call(onStatus, 'offline', error)
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
  const take = async ({ from, batch, progress, status }) => {
    if (leading || ended.signal.aborted) return
    if (status === 'reset') return reset().then(catchUpOnce)
    if (status) return call(onStatus, status)
    if (from === position) return deliver(batch, progress)
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

/** The batch of one data event. */
function decode(data, kind, base64) {
  if (kind === 'json') return JSON.parse(data)
  if (!base64) return data
  const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0))
  return kind === 'text' ? new TextDecoder().decode(bytes) : bytes
}

/** The events of a text/event-stream body; `alive` is called whenever something arrives. */
async function* events(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  let type = ''
  let data = []
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    alive()
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/)
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
