package smallhold.engine

import java.io.Closeable

/** What can go wrong, by the numbers of the C interface (`smallhold_engine.h`). */
enum class Kind { OK, MALFORMED, UNSUPPORTED, SHAPE, CAPACITY, MEMORY, SYSTEM, UNTRUSTED }

/** A failure; nothing was changed. */
class EngineException(val kind: Kind, message: String) : Exception(message)

/** A bundle with all of its tasks, asked by JSON; used by one thread at a time, the others wait. */
class Engine private constructor(private var handle: Long) : Closeable {
    /**
     * The answer to one request: both are JSON objects, see "Decide without Python". A refused request is answered too,
     * by an object with the member `error`.
     *
     * Throws IllegalStateException after `close`.
     */
    @Synchronized
    fun ask(request: String): String {
        check(handle != 0L) { "the engine is closed" }
        return String(Native.ask(handle, request.toByteArray(Charsets.UTF_8)), Charsets.UTF_8)
    }

    /** Let go of the bundle and of its patients. */
    @Synchronized
    override fun close() {
        Native.free(handle)
        handle = 0
    }

    companion object {
        /**
         * Open a bundle on the disk, a folder or one file, which is mapped and not copied.
         *
         * `keys`: PEM texts one behind the other, one of which has to have signed the bundle; null says that the app has
         * verified it itself. Throws EngineException.
         */
        @JvmStatic
        fun open(path: String, keys: String?): Engine =
            Engine(Native.open(path.toByteArray(Charsets.UTF_8), keys?.toByteArray(Charsets.UTF_8)))

        /** Open a bundle in one file from memory, for example an asset of the app; its bytes are copied. See `open`. */
        @JvmStatic
        fun of(bundle: ByteArray, keys: String?): Engine =
            Engine(Native.of(bundle, keys?.toByteArray(Charsets.UTF_8), System.currentTimeMillis() / 1000))
    }
}

/** `smallhold_jni.c`. Texts are UTF-8 in arrays: JNI's own texts are another encoding. */
internal object Native {
    init {
        System.loadLibrary("smallhold_jni")
    }

    @JvmStatic
    external fun open(path: ByteArray, keys: ByteArray?): Long

    @JvmStatic
    external fun of(bundle: ByteArray, keys: ByteArray?, now: Long): Long

    @JvmStatic
    external fun ask(handle: Long, request: ByteArray): ByteArray

    @JvmStatic
    external fun free(handle: Long)

    /** What the library throws. */
    @JvmStatic
    fun failure(kind: Int, message: ByteArray): EngineException =
        EngineException(Kind.values().getOrElse(kind) { Kind.SYSTEM }, String(message, Charsets.UTF_8))
}
