package smallhold.engine

import java.io.File

/** Usage: BUNDLE KEYS.pem REQUEST... An empty name of keys says that the bundle was verified already. */
fun main(words: Array<String>) {
    val keys = if (words[1].isEmpty()) null else File(words[1]).readText()
    try {
        val opened = if (File(words[0]).isFile) Engine.of(File(words[0]).readBytes(), keys) else Engine.open(words[0], keys)
        opened.use { engine -> words.drop(2).forEach { System.out.write((engine.ask(it) + "\n").toByteArray()) } }
        System.out.flush()
    } catch (error: EngineException) {
        System.err.println("${error.kind}: ${error.message}")
        System.exit(2)
    }
}
