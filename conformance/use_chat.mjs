// A chat as `useChat` keeps it, without React: sends a message or resumes, and prints each state
// that a page would show as one line of JSON.
//
//     node use_chat.mjs durable|default send|resume API_URL

import { createDurableChatTransport } from '@durable-streams/aisdk-transport'
import { AbstractChat, DefaultChatTransport } from 'ai'

const [transport, action, api] = process.argv.slice(2)
const transports = {
  durable: () => createDurableChatTransport({ api }),
  default: () => new DefaultChatTransport({ api }),
}

class State {
  status = 'ready'
  error = undefined
  messages = []
  pushMessage = (message) => this.show(this.messages.push(message))
  popMessage = () => this.show(this.messages.pop())
  replaceMessage = (index, message) => this.show((this.messages[index] = message))
  snapshot = (value) => structuredClone(value)
  show() {
    const answer = this.messages.find((message) => message.role === 'assistant')
    const parts = (answer?.parts ?? []).filter((part) => part.type !== 'step-start')
    console.log(JSON.stringify({ id: answer?.id, parts, status: this.status }))
  }
}

class Chat extends AbstractChat {}

const state = new State()
const chat = new Chat({ id: 'c1', transport: transports[transport](), state })
await (action === 'send' ? chat.sendMessage({ text: 'Hello?' }) : chat.resumeStream())
state.show()
console.log(JSON.stringify({ status: chat.status, error: chat.error?.message }))
